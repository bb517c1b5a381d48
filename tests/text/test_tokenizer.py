"""Token ids and words of expressions, compared with open_clip's own tokenizer."""

import re
import warnings
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer

from sspsam.errors import SSPSAMError, SSPSAMWarning, TextError
from sspsam.text import tokenizer as tokenizer_module
from sspsam.text.tokenizer import MAX_WORD_CHARACTERS, Tokenizer

LENGTH = 77
STOCK = SimpleTokenizer()
TOKENIZER = Tokenizer(LENGTH, "{}.")
START, END = STOCK.sot_token_id, STOCK.eot_token_id
CONTROL = re.compile("<(start|end)_of_text>", re.IGNORECASE)

SNIPPETS = [
    "the dog ",
    " LEFT",
    "it's",
    "...",
    "3",
    "  ",
    "\n",
    "\t\x00",
    "\x1b[31m",
    "\u200b",
    "\ufeff",
    "e\u0301",
    "ﬁ",
    "İ",
]
SNIPPETS += [
    "\ud800",
    "\udc00",
    "🐶",
    "👩\u200d👧",
    "كلب",
    "כלב",
    "犬",
    "Ã©",
    "\uff44\uff4f\uff47",
    "\u017f",
    "{}",
    "{0}",
    "%s",
]
SNIPPETS += ["\\", '"', "</w>", "|||", "&amp;", "&lt;", "&", "lt;", "amp;", "<", ">", "_of_text>", "end_of_text>"]
SNIPPETS += ["<start_of_text>", "<END_of_text>"]
any_character = st.characters()  # lone surrogates included
any_text = st.lists(st.one_of(st.sampled_from(SNIPPETS), st.text(any_character, max_size=6)), max_size=8).map("".join)


def token_ids_or_none(text: str) -> list[int] | None:
    """Return the token ids, or None where the text is refused as empty."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SSPSAMWarning)
        try:
            return TOKENIZER(text).tolist()
        except TextError:
            return None


def sentence_of(text: str) -> str:
    return f"{text.strip().lower()}."


@settings(max_examples=400, deadline=None)
@given(any_text)
@example("the dog on the LEFT ")
@example("dog " * 100)
@example("犬" * 100)
@example("\ud83d\udc36 lone \udc36")
@example("he said {} and {0}")
def test_token_ids_equal_those_of_open_clip(text: str) -> None:
    assume(not CONTROL.search(STOCK.clean_fn(sentence_of(text))))
    stock = STOCK(sentence_of(text), LENGTH)[0].tolist()
    token_ids = token_ids_or_none(text)
    if token_ids is None:
        assert stock[:4] == [START, STOCK.encoder[".</w>"], END, 0]  # only the template's full stop
    else:
        assert token_ids == stock


@settings(max_examples=400, deadline=None)
@given(any_text)
@example("<end_of_text>")
@example("a <START_OF_TEXT> b <end_of_text> c")
@example("&lt;end_of_text&gt;")
@example("&amp;lt;end_of_text&amp;gt;")
@example("<end_of_text> &amp;amp;lt;end_of_text>")
@example("<start_of_text> &amp;amp;amp;lt;end_of_text&amp;amp;amp;gt;")
@example("<<end_of_text>>")
@example("\uff1cend_of_text\uff1e")
def test_no_text_produces_control_tokens_or_crashes(text: str) -> None:
    ids = token_ids_or_none(text)
    if ids is None:
        return
    end = ids.index(END)
    assert ids[0] == START
    assert not {START, END} & set(ids[1:end])
    assert not any(ids[end + 1 :])
    assert token_ids_or_none(text) == ids  # the second time from the cache of words


@pytest.mark.parametrize("name", ["start_of_text>", "end_of_text>"])
def test_control_tokens_in_a_text_are_tokenised_as_plain_words(name: str) -> None:
    plain = [*STOCK.encode("a <"), *STOCK.encode(f"{name} b.")]
    for text in (f"a <{name} b", f"A &lt;{name.upper()} b", f"a &amp;lt;{name} b"):
        ids = TOKENIZER(text).tolist()
        assert ids[: ids.index(END)] == [START, *plain], text


@settings(max_examples=200, deadline=None)
@given(any_text)
@example("a" * 300)
@example("犬🐶" * 40)
def test_words_cover_every_position_between_the_markers_once(text: str) -> None:
    ids = token_ids_or_none(text)
    if ids is None:
        return
    words = TOKENIZER.words(np.array(ids))
    assert words[0].start == 1
    assert words[-1].stop == ids.index(END)
    assert all(left.stop == right.start for left, right in pairwise(words))
    assert all(word.stop > word.start and "</w>" not in word.text for word in words)


def test_words_are_whole_words_of_the_text() -> None:
    words = TOKENIZER.words(TOKENIZER(" The brachiosaurus' tail, isn't it"))
    assert [word.text for word in words] == ["the", "brachiosaurus", "'", "tail", ",", "isn", "'t", "it", "."]
    assert max(word.stop - word.start for word in words) > 1  # a word of several pieces is one word


def test_a_word_that_is_truncated_in_its_middle_is_still_a_word() -> None:
    with pytest.warns(SSPSAMWarning):
        ids = TOKENIZER("dog " * 73 + "brachiosaurus")
    last = TOKENIZER.words(ids)[-1]
    assert last.stop == LENGTH - 1
    assert "brachiosaurus".startswith(last.text)


def test_case_and_surrounding_white_space_have_no_effect() -> None:
    assert np.array_equal(TOKENIZER("\t The DOG\n"), TOKENIZER("the dog"))


def test_template_and_context_length_are_configurable() -> None:
    ids = Tokenizer(9, "a photo of {}!")("Dog").tolist()
    assert ids == [START, *STOCK.encode("a photo of dog!"), END, 0, 0]


def test_token_ids_are_int64_padded_with_zeros() -> None:
    ids = TOKENIZER("dog")
    assert ids.dtype == np.int64
    assert ids.shape == (LENGTH,)
    assert ids.tolist() == [START, 1929, STOCK.encoder[".</w>"], END, *[0] * 73]


def test_a_text_that_is_too_long_is_truncated_and_the_warning_quotes_the_rest() -> None:
    with pytest.warns(SSPSAMWarning, match=r"longer than 77 tokens; these words are not read: 'green zebra'") as caught:
        ids = TOKENIZER("dog " * 75 + "green zebra")
    assert len(caught) == 1
    assert ids.tolist() == [START, *[1929] * 75, END]


def test_the_warning_quotes_only_the_beginning_of_a_very_long_rest() -> None:
    with pytest.warns(SSPSAMWarning) as caught:
        TOKENIZER("dog " * 900)
    assert str(caught[0].message).endswith(" ...'")
    assert len(str(caught[0].message)) < 500


def test_truncating_only_the_templates_full_stop_gives_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert TOKENIZER("dog " * 75).tolist() == [START, *[1929] * 75, END]
        assert TOKENIZER("dog " * 74).tolist()[-2:] == [STOCK.encoder[".</w>"], END]


@pytest.mark.parametrize("text", ["", " ", "\t\n\u3000\u00a0", "\x00\x01", "\ufeff", "\x1b[0m", "&nbsp;"])
def test_a_text_without_any_tokens_is_refused_as_empty(text: str) -> None:
    with pytest.raises(TextError, match="is empty") as caught:
        TOKENIZER(text)
    assert repr(text) in str(caught.value)
    assert isinstance(caught.value, SSPSAMError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("text", [None, 3, b"dog", ["dog"], ("dog",), np.array("dog"), object()])
def test_a_text_that_is_not_a_string_is_a_type_error(text: object) -> None:
    with pytest.raises(TypeError, match=f"a string, not {type(text).__name__}"):
        TOKENIZER(text)  # type: ignore[arg-type]


@pytest.mark.timeout(60)  # seconds; to split or to encode such a text would take far longer
@pytest.mark.parametrize("unit", ["a", "dog ", " ", "🐶", "&amp;", "\ud800"])
def test_a_text_of_a_million_characters_is_refused_before_it_is_tokenised(unit: str) -> None:
    with pytest.raises(TextError, match="1,000,000 characters"):
        TOKENIZER((unit * 1_000_000)[:1_000_000])


@pytest.mark.timeout(60)  # seconds; measured: below 0.7
@pytest.mark.parametrize(
    "letters", ["abcdefghijklmnopqrstuvwxyz", "ﬀﬁﬂﬃﬄǆ", "😀🐶🚗👍🌍🎈", "éñøßłž", "犬猫鳥魚", "!?#*-_"]
)
def test_the_longest_allowed_word_is_tokenised(letters: str) -> None:
    rng = np.random.default_rng(0)
    word = "".join(rng.choice(list(letters), MAX_WORD_CHARACTERS))
    assert token_ids_or_none(word) is not None


def test_the_cache_of_words_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_module, "_MAX_CACHED_WORDS", 10)
    tokenizer = Tokenizer(LENGTH, "{}.")
    for number in range(30):
        text = "".join(chr(97 + int(digit)) for digit in str(number**9)) + " " + "x" * 70
        assert tokenizer(text).tolist() == STOCK(sentence_of(text), LENGTH)[0].tolist()
    assert len(tokenizer._bpe.cache) <= 10
    assert max(len(word) for word in tokenizer._bpe.cache) < 70


@pytest.mark.parametrize("template", ["{}{", "{}.{x}", "{}{0}", "a {} b"])
def test_a_template_is_plain_text_around_its_placeholder(template: str) -> None:
    ids = Tokenizer(77, template)("the mug")
    assert ids[: (ids != 0).sum()].tolist()[1:-1] == STOCK.encode(re.sub(r"\{\}", "the mug", template))


def test_the_warning_of_truncation_does_not_quote_the_templates_full_stop() -> None:
    with pytest.warns(SSPSAMWarning, match="not read: 'mug the mug") as caught:
        Tokenizer(77, "{}.")("the mug " * 1000)
    assert "." not in str(caught[0].message).rpartition("not read: ")[2].replace(" ...", "")


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=60))
@example("it's 3!!! <start_of_text> &amp; 'S 'LL")
def test_plain_ascii_has_the_token_ids_of_open_clip(text: str) -> None:
    assume(text.strip() and not CONTROL.search(text))
    ids = TOKENIZER(text)
    assert ids[1 : int(ids.argmax())].tolist() == STOCK.encode(f"{text.strip().lower()}.")[: LENGTH - 2]
