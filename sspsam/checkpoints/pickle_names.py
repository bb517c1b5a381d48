"""The names of classes and functions that the pickle of a checkpoint may have; none of them is ever looked up.

Nothing that a pickle names is imported or called (`pickle_values`), so that this is no protection of its own. It tells
data that a training run saves beside the tensors from what no checkpoint needs, so that a file that tries to run
something is refused by name instead of being converted in silence.
"""

import re
import sys
from _compat_pickle import IMPORT_MAPPING, REVERSE_IMPORT_MAPPING
from collections.abc import Container
from typing import Final

REBUILD_TENSOR: Final = "torch._utils._rebuild_tensor_v2"
REBUILD_PARAMETER: Final = "torch._utils._rebuild_parameter"
ORDERED_DICT: Final = "collections.OrderedDict"
OWN_SETSTATE: Final = ".__setstate__"  # follows the name of a class that is given a state other than attributes

_STORAGES: Final = ("Float", "Half", "BFloat16", "Double", "Long", "Int", "Short", "Char", "Byte", "Bool")
_TENSORS: Final = frozenset(
    {
        *(f"torch.{kind}Storage" for kind in _STORAGES),
        REBUILD_TENSOR,
        REBUILD_PARAMETER,
        ORDERED_DICT,
        "torch.Size",
        "torch.device",
    }
)
# values of the standard library, of NumPy and of PyTorch, also under the names that Python 2, Python 3.13 and NumPy 1
# have for them
_BUILTINS: Final = (
    *("bool", "int", "long", "float", "complex", "str", "unicode", "bytes", "bytearray", "object", "slice"),
    *("range", "xrange", "tuple", "list", "dict", "set", "frozenset", "Ellipsis", "NotImplemented"),
)
_DATA: Final = re.compile(
    "|".join(
        (
            rf"(builtins|__builtin__)\.({'|'.join(_BUILTINS)})",
            r"_codecs\.encode",  # bytes, from text
            r"argparse\.Namespace",
            r"array\.(array|_array_reconstructor)",
            r"collections\.(ChainMap|Counter|OrderedDict|UserDict|UserList|UserString|defaultdict|deque)",
            r"UserDict\.(IterableUserDict|UserDict)|UserList\.UserList|UserString\.UserString",
            r"datetime\.(date|datetime|time|timedelta|timezone)",
            r"decimal\.Decimal|fractions\.Fraction|random\.Random|re\._compile|types\.SimpleNamespace",
            r"typing\.[A-Z]\w*",
            r"http\.HTTP(Status|Method)|signal\.Signals|logging\.getLogger",
            r"ipaddress\.IPv[46](Address|Network|Interface)",
            r"pathlib(\._local)?\.(Pure)?(Posix|Windows)?Path",
            r"uuid\.(UUID|SafeUUID)|zoneinfo\.ZoneInfo(\._unpickle)?",
            r"numpy\.(_core|core)\.multiarray\.(scalar|_reconstruct)",
            r"numpy\.(dtype|ndarray|matrix|recarray|record|memmap|matrixlib\.defmatrix\.matrix)",
            r"numpy\.(rec|_core\.records|core\.records)\.(recarray|record)",
            r"numpy\.ma(\.core)?\.(_mareconstruct|MaskedArray|MaskedConstant|mvoid)",
            r"numpy\.dtypes\.\w+DType",
            r"numpy\.(bool_?|u?int(8|16|32|64|c|p)?|u?(byte|short|long|longlong))",
            r"numpy\.(float|complex)\d+|numpy\.(half|single|double|longdouble|str_|bytes_|object_|void)",
            r"numpy\.(datetime64|timedelta64)",
            r"numpy\.random\.(_pickle\.__\w+_ctor|mtrand\.RandomState|_(mt19937|pcg64|philox|sfc64)\.\w+)",
            r"numpy\.random\.bit_generator\.(SeedSequence|__pyx_unpickle_SeedSequence)",
            r"torch\.(b?float|u?int|complex|bool|float8_)\w*",  # dtypes
        )
    )
)
# of the other packages the classes of their data are named above
_NAMED_PACKAGES: Final = frozenset(
    {*sys.stdlib_module_names, *(name.partition(".")[0] for name in (*IMPORT_MAPPING, *REVERSE_IMPORT_MAPPING))}
    | {"numpy", "torch", "sspsam", "pip", "setuptools", "pkg_resources", "_distutils_hack"}
)
_CLASS_OF_A_PROGRAM: Final = re.compile(r"([^\W\d]\w*)(\.[^\W\d]\w*)*\._*[A-Z]\w*")


class CheckpointNames(Container[str]):
    """The names that a checkpoint of a training run may have.

    Beside tensors and the data of the standard library, NumPy and PyTorch, these are the classes of other programs,
    such as those of options and enumerations: by their spelling they are classes, not functions, and they are given
    attributes, entries and arguments, but no state for a `__setstate__` of their own.
    """

    def __contains__(self, name: object) -> bool:
        text = str(name)
        plain = text.removesuffix(OWN_SETSTATE)
        if _DATA.fullmatch(plain):
            return True
        if plain != text:
            return False
        found = _CLASS_OF_A_PROGRAM.fullmatch(text)
        return text in _TENSORS or (found is not None and found[1] not in _NAMED_PACKAGES)
