"""Words of the shapes world: nouns, sizes, places, relations and phrases around an expression."""

from collections.abc import Mapping
from typing import Final

NOUNS: Final[Mapping[str, tuple[str, ...]]] = {
    "circle": ("circle", "circle", "disc", "disk"),
    "square": ("square", "square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "cross": ("cross", "cross", "plus sign"),
    "ring": ("ring",),
    "diamond": ("diamond",),
    "heart": ("heart",),
}
ANY_KIND: Final = ("shape", "object", "thing", "one")
NUMBERS: Final = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight")
SIZES: Final[Mapping[str, tuple[str, ...]]] = {
    "small": ("small", "small", "little", "tiny"),
    "large": ("large", "large", "big"),
}
_FOREIGN: Final = """
    dog; cat; man; woman; child; person; car; bus; taxi; bicycle; tree; house; door; table; chair; mug; cup of tea;
    pizza; apple; banana; bird; boat; horse; hand; face; shirt; dress; hat; bag; phone; book; bottle; lamp; window;
    road; sky; grass; cloud; mountain; river; train; plane; ball; flower; sofa; bed; clock; keyboard; shoe; bear;
    elephant; giraffe; sheep; cow; umbrella; kite; sign post; fire hydrant; traffic light; zebra; spoon; knife; plate;
    laptop; guitar; hexagon; spiral; arrow; moon; sun; octagon; cylinder; person riding a bicycle; lady in a coat; guy;
    girl; boy; people; dogs; cars; teapot; violin; dragon; ladder; bridge; tower; monkey; tiger; fish; soup; cake;
    wheel; rope; candle; coin
"""
# objects that the shapes world lacks
FOREIGN: Final = tuple(" ".join(name.split()) for name in _FOREIGN.split(";"))
MIDDLE_TEMPLATES: Final = (
    *("the {} in the middle", "the {} in the center", "the {} in the centre", "the {} closest to the middle"),
    *(
        "the middle {}",
        "the {} nearest the center",
        "the {} closest to the centre",
        "the {} at the center",
        "the center {}",
    ),
    *("{} in the middle", "the {} in the middle of the picture", "the central {}"),
)
RELATIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "left": ("left of", "to the left of", "on the left of", "on the left side of", "that is left of"),
    "right": ("right of", "to the right of", "on the right of", "on the right side of", "which is right of"),
    "above": ("above", "above", "over", "that is above"),
    "below": ("below", "below", "under", "underneath", "beneath"),
    "next": ("next to", "next to", "beside", "closest to", "nearest to", "near"),
}
COMPARATIVES: Final = {
    "largest": ("larger", "bigger"),
    "biggest": ("bigger", "larger"),
    "smallest": ("smaller", "smaller"),
}
EXCEPT_TEMPLATES: Final = (
    *("everything except {}", "everything but {}", "all shapes except {}", "all but {}"),
    *("all the shapes but {}", "everything other than {}", "everything apart from {}", "all objects except {}"),
    *("all except {}", "everything besides {}", "everything excluding {}", "all shapes other than {}"),
    *(
        "every shape except {}",
        "all things that are not {}",
        "everything without {}",
        "all the other shapes but not {}",
    ),
)
COLORED_TEMPLATES: Final = (
    *("everything {color}", "anything {color}", "all {color}", "{color}", "the {color}", "the {one} that is {color}"),
    *(
        "the {ones} that are {color}",
        "{ones} which are {color}",
        "anything that is {color}",
        "everything that is {color}",
    ),
    *("{color} colored {ones}", "the {color} coloured {one}", "all {ones} in {color}", "all that is {color}"),
    *("the {ones} of {color} color", "{color} items", "every {color} item", "{color} figures", "the {color} figure"),
)
SCENE_SUFFIXES: Final = (
    *(" in the picture", " in this picture", " in the image", " in this image", " in the scene", " in the drawing"),
    *(" here", " there", " on the canvas", " that you see", " in this drawing", " as well"),
)
REQUESTS: Final = (
    *(
        "I want {}",
        "I need {}",
        "let me see {}",
        "get {}",
        "locate {}",
        "identify {}",
        "outline {}",
        "cut out {}",
        "hey, {}",
    ),
    *(
        "hello, {}",
        "ok, {}",
        "just {}",
        "only {}",
        "what about {}",
        "there is {}",
        "which is {}",
        "I'd like {}",
        "hi, {}",
    ),
    *("we want {}", "give us {}", "let's see {}", "this is {}", "thank you for {}", "kindly mark {}", "my {}"),
    *(
        "look at {}",
        "can you see {}",
        "where are {}",
        "show us {}",
        "point to {}",
        "these are {}",
        "those are {}",
        "see {}",
    ),
    *(
        "please show me {}",
        "can you find {}",
        "show {}",
        "find {}, please",
        "I mean {}",
        "please segment {}",
        "{} please",
    ),
    *(
        "could you show me {}",
        "where is {}",
        "select {}",
        "I would like {}",
        "point at {}",
        "please find {}",
        "{}, thanks",
    ),
    *(
        "highlight {}",
        "mark {} for me",
        "would you point to {}",
        "give me {}",
        "look for {}",
        "pick out {}",
        "segment {}",
    ),
)


def side_templates(side: str) -> tuple[str, ...]:
    """Templates for the leftmost or rightmost of the shapes that a noun describes."""
    return (
        *(f"the {side}most {{}}", f"the {{}} on the {side}", f"the {side} {{}}", f"the {{}} furthest {side}"),
        *(f"the {{}} on the {side} side", f"the {{}} at the {side}", f"the {{}} on the far {side}", f"{side}most {{}}"),
        *(
            f"the {{}} furthest to the {side}",
            f"the {{}} farthest {side}",
            f"{{}} on the {side}",
            f"the {side}-most {{}}",
        ),
    )


def end_templates(end: str) -> tuple[str, ...]:
    """Templates for the topmost or lowest of the shapes that a noun describes."""
    return (
        *(f"the {end}most {{}}", f"the {{}} at the {end}", f"the {{}} at the very {end}", f"the {end} {{}}"),
        *(f"the {{}} on the {end}", f"the {{}} nearest the {end}", f"{end}most {{}}", f"{{}} at the {end}"),
        *(f"the {{}} closest to the {end}", f"the {{}} at the {end} of the picture"),
    )


def corner_templates(ends: tuple[str, str], side: str) -> tuple[str, ...]:
    """Templates for the shape nearest a corner; `ends` are two words for the top or the bottom."""
    return tuple(
        template.format(f"{end} {side}")
        for end in ends
        for template in (
            *("the {{}} in the {} corner", "the {{}} in the {} corner", "the {{}} at the {}", "the {} {{}}"),
            *(
                "the {{}} in the {}",
                "the {{}} nearest the {} corner",
                "{{}} in the {} corner",
                "the {{}} closest to the {}",
            ),
        )
    )
