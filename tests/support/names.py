"""Names of files that look like messages about options; every system allows their characters."""

HOSTILE = (
    "formats was x.png",
    "dtype='int8'.png",
    "mask threshold was here.png",
    "1 x 2 = 3 (4 pixels).png",
    "more than max_pixels = 5.png",
    "overwrite=True (command line - --x).png",
)
