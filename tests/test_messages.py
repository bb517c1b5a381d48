"""Messages that name options: in the words of each front end, and with their parts wherever they go."""

import ast
import copy
import pickle
import warnings
from pathlib import Path

import pytest

import sspsam
from sspsam import errors
from sspsam.cli import main
from sspsam.images.pixel_limits import too_many_pixels
from sspsam.messages import OVERWRITE, OptionMessage, Wording, argument, flag, joined, message_of, option, setting
from tests.support.names import HOSTILE


def example() -> OptionMessage:
    return OptionMessage(
        "a.png: ", option("max_pixels"), " or ", setting("dtype", "float16"), Wording("; hint", server="")
    )


def test_each_front_end_has_its_own_words() -> None:
    message = example()
    assert message == "a.png: max_pixels or dtype='float16'; hint"
    assert message.for_command == "a.png: --max-pixels or --dtype float16; hint"
    assert message.for_server == "a.png: max_pixels or dtype='float16'"
    assert argument("overwrite=True", "--overwrite") == OVERWRITE
    assert OptionMessage(OVERWRITE) == "overwrite=True (command line: --overwrite)"
    assert OptionMessage(OVERWRITE).for_command == "--overwrite"


@pytest.mark.parametrize("name", HOSTILE)
def test_texts_of_users_are_never_reworded(name: str) -> None:
    message = OptionMessage(name, " has ", option("formats"), " ", name)
    assert message.for_command == f"{name} has --format {name}"
    assert message.for_server == f"{name} has formats {name}"


def test_a_message_in_a_message_keeps_its_parts() -> None:
    message = OptionMessage("texts[3]: ", joined("; ", ["plain", example(), example()]), ".")
    assert message.for_command == f"texts[3]: plain; {example().for_command}; {example().for_command}."
    assert str(message) == f"texts[3]: plain; {example()}; {example()}."
    assert joined(", ", []) == ""


ERRORS = sorted(
    (kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.SSPSAMError)),
    key=lambda kind: kind.__name__,
)


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_keeps_its_message_when_it_is_pickled_copied_and_prefixed(kind: type[errors.SSPSAMError]) -> None:
    error = kind(example())
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        restored = pickle.loads(pickle.dumps(error, protocol))
        assert type(restored) is kind
        assert str(restored) == str(error) == example()
        assert message_of(restored).for_command == example().for_command
    assert message_of(copy.deepcopy(error)).for_server == example().for_server
    prefixed = error.with_message("image.png: ", message_of(error))
    assert type(prefixed) is kind
    assert str(prefixed) == f"image.png: {example()}"
    assert message_of(prefixed).for_command == f"image.png: {example().for_command}"


def test_an_image_that_is_too_large_states_its_pixels_wherever_the_error_goes() -> None:
    error = too_many_pixels("1 x 2 = 3 (4 pixels).png", 100, 70, 5000)
    assert error.pixels == 7000
    assert pickle.loads(pickle.dumps(error)).pixels == 7000
    assert error.with_message("prefix: ", message_of(error)).pixels == 7000


def test_problems_of_lines_stay_when_the_error_is_pickled_and_prefixed() -> None:
    error = errors.LinesError(OptionMessage("leave them out with ", OVERWRITE), ("a", "b"))
    for other in (pickle.loads(pickle.dumps(error)), error.with_message("prefix: ", message_of(error))):
        assert other.problems == ("a", "b")
        assert other.message.for_command == "leave them out with --overwrite"


def test_a_long_message_is_cut_in_the_words_of_each_front_end() -> None:
    long = OptionMessage("x" * 10_000, option("max_pixels"))
    error = errors.ConfigError(long)
    assert len(str(error)) < errors.MAX_MESSAGE_CHARACTERS + 100
    assert str(error) == str(errors.ConfigError(str(long)))  # as a message without parts
    assert str(error).endswith("x max_pixels".replace(" ", ""))
    assert message_of(error).for_command.endswith("x--max-pixels")


def test_a_warning_keeps_its_parts() -> None:
    with warnings.catch_warnings(record=True) as recorded:
        warnings.simplefilter("always")
        errors.warn(example())
    assert str(recorded[0].message) == example()
    assert isinstance(recorded[0].message, Warning)
    assert message_of(recorded[0].message).for_command == example().for_command


def calls() -> list[tuple[str, list[str]]]:
    """Functions that name options, with those of their arguments that are literals, wherever the library calls them."""
    found = []
    for path in Path(sspsam.__file__).parent.rglob("*.py"):
        if "from sspsam.messages import" not in (code := path.read_text("utf-8")):
            continue
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("option", "setting", "argument"):
                values = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
                found.append((ast.unparse(node.func), [str(value) for value in values]))
    return found


def test_every_flag_in_a_message_is_one_of_the_command_line() -> None:
    known = {name for command in main.commands.values() for parameter in command.params for name in parameter.opts}
    flags = {flag(values[0]) for name, values in calls() if name != "argument" and values}
    flags |= {word for name, values in calls() if name == "argument" for word in values[-1].split() if word[0] == "-"}
    assert len(flags) > 10
    assert flags - known == set()
