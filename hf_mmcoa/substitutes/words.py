"""Find and replace the words of a text, and list the stop words, which carry no meaning of their own.

A regular expression finds them, not a tokenizer: what lies between the words (spaces, punctuation) survives a
replacement unchanged, and every source and model can map the words to its own tokens by their positions in the text.

Words are compared in their composed form (Unicode's NFC): "café" is one word, whether its last letter is stored as one
character or as two. A place is one word, by its number, or a phrase, by the numbers of its first word and of the word
after it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator
from difflib import SequenceMatcher

Place = int | tuple[int, int]

MARKS = frozenset(
    chr(code)
    for block in (range(0x300, 0x1F000), range(0xE0100, 0xE01F0))
    for code in block
    if unicodedata.category(chr(code)).startswith("M")
)
"""All characters that combine with the letter before them: accents, and the vowel signs of Devanagari or Thai."""

# Letters and digits with their marks, and with apostrophes and the joiners of Indic and Persian script inside: "don't"
# and "हिन्दी" are one word each, "red-hot" is two.
_MARK = rf"(?=[^\x00-\x7f])[{''.join(sorted(MARKS))}]"  # the first half spares ASCII the search in a large set
_LETTERS = rf"[^\W_]+(?:(?:{_MARK})+[^\W_]*)*"
WORD = re.compile(rf"{_LETTERS}(?:['\u2019\u200c\u200d]{_LETTERS})*")
_WITHIN_PHRASE = re.compile(r"[\s_/\-\u2010\u2011]+")

# Function words only. Number words are left out on purpose: "one" and "two" are class names.
STOP_WORDS = frozenset(
    WORD.findall(
        """
        a an the this that these those such each every either neither both all any some no none another other same own
        i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself she her
        hers herself it its itself they them their theirs themselves who whom whose which what whoever whatever
        something anything nothing everything someone anyone everyone somebody anybody nobody everybody about above
        across after against along amid among around as at before behind below beneath beside besides between beyond
        by despite down during except for from in inside into near of off on onto out outside over per since through
        throughout till to toward towards under underneath until unto up upon via with within without and but or nor
        so yet if because although though unless while whereas whether than lest am is are was were be been being have
        has had having do does did doing done can could may might must shall should will would ought cannot not very
        too also just only even ever never almost quite rather really again then there here now once thus hence
        therefore however when where why how more most less least much many few i'm i've i'll i'd you're you've you'll
        you'd he's he'll he'd she's she'll she'd it's it'll it'd we're we've we'll we'd they're they've they'll they'd
        that's there's here's what's who's let's isn't aren't wasn't weren't don't doesn't didn't hasn't haven't
        hadn't can't couldn't won't wouldn't shan't shouldn't mustn't mightn't needn't
        """
    )
)


def split_words(text: str) -> list[tuple[int, int]]:
    """Return start and end of every word of `text`, in characters, in order.

    Example:
        >>> [text[slice(*span)] for text in ["a dog's red-hot ball."] for span in split_words(text)]
        ['a', "dog's", 'red', 'hot', 'ball']
    """
    return [match.span() for match in WORD.finditer(text)]


def words_of(text: str) -> list[str]:
    """Return the words of a text as they are compared: composed and in lower case.

    Example:
        >>> words_of("A Polar-Bear!")
        ['a', 'polar', 'bear']
    """
    return [word.casefold() for word in WORD.findall(unicodedata.normalize("NFC", text))]


def phrases_around(text: str, index: int, longest: int) -> Iterator[tuple[tuple[int, int], str]]:
    """Yield every phrase of 2 to `longest` words that holds a word: its place, and its words joined by spaces.

    Between the words of a phrase are spaces, hyphens or strokes; other punctuation ends it.

    Example:
        >>> list(phrases_around("a cat, a beer mug", 3, 3))
        [((3, 5), 'beer mug'), ((2, 4), 'a beer'), ((2, 5), 'a beer mug')]
    """
    spans = split_words(text)
    first_possible, end_possible = index, index + 1
    while first_possible > 0 and _joined(text, spans, first_possible):
        first_possible -= 1
    while end_possible < len(spans) and _joined(text, spans, end_possible):
        end_possible += 1
    for first in range(index, max(first_possible, index - longest + 1) - 1, -1):
        for end in range(max(index, first + 1) + 1, min(end_possible, first + longest) + 1):
            yield (first, end), " ".join(words_of(text[spans[first][0] : spans[end - 1][1]]))


def _joined(text: str, spans: list[tuple[int, int]], index: int) -> bool:
    return _WITHIN_PHRASE.fullmatch(text, spans[index - 1][1], spans[index][0]) is not None


def span_of(place: Place) -> tuple[int, int]:
    """Return the numbers of a place's first word and of the word after its last."""
    return (place, place + 1) if isinstance(place, int) else place


def replace_word(text: str, place: Place, substitute: str) -> str:
    """Replace a word or a phrase of `text` and leave the rest unchanged.

    Args:
        text: the text.
        place: the word or the phrase; words are counted from 0 as by `split_words`.
        substitute: what takes its place.

    Raises:
        IndexError: if the text has no such place.
    """
    spans = split_words(text)
    first, end = span_of(place)
    if not 0 <= first < end <= len(spans):
        raise IndexError(f"`place` {place} is not a word of {text!r}, which has {len(spans)}.")
    return text[: spans[first][0]] + substitute + text[spans[end - 1][1] :]


def changed_words(before: str, after: str) -> list[tuple[str, str]]:
    """Return the words in which two texts differ, in order and composed, as (before, after).

    Of an inserted or deleted word, one of the two is empty.

    Example:
        >>> changed_words("a photo of a dog.", "a photo of a hound.")
        [('dog', 'hound')]
    """
    old, new = (WORD.findall(unicodedata.normalize("NFC", text)) for text in (before, after))
    if len(old) == len(new):
        return [pair for pair in zip(old, new, strict=True) if pair[0] != pair[1]]
    blocks = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    return [(" ".join(old[a:b]), " ".join(new[c:d])) for kind, a, b, c, d in blocks if kind != "equal"]


def change_cost(place: Place, substitute: str) -> int:
    """Return how many changes it is to put a substitute in a place: one, and one more for each word that it adds.

    Example:
        >>> change_cost((4, 6), "stein"), change_cost((4, 6), "glass stein"), change_cost(4, "goose egg")
        (1, 1, 2)
    """
    first, end = span_of(place)
    return 1 + max(len(words_of(substitute)) - (end - first), 0)


def count_changes(before: str, after: str, phrases: Collection[tuple[int, int]] = ()) -> int:
    """Return the fewest changes, counted by `change_cost`, that make one text of another.

    It knows nothing of the attack that made the text, so it can check its budget. A word that was put in or taken out
    is one change.

    Args:
        before: the text before.
        after: the text after.
        phrases: places in `before` that change as a whole.

    Example:
        >>> count_changes("a red beer mug", "a dark red stein", [(2, 4)]), count_changes("a beer mug", "a stein")
        (2, 2)
    """
    old, new = words_of(before), words_of(after)
    places = [*((index, index + 1) for index in range(len(old))), *phrases]
    fewest: dict[tuple[int, int], int] = {(0, 0): 0}  # of the first so many words of each text

    def reach(at: tuple[int, int], changes: int) -> None:
        fewest[at] = min(changes, fewest.get(at, changes))

    for i in range(len(old) + 1):
        for j in range(len(new) + 1):
            here = fewest[i, j]
            if i < len(old) and j < len(new) and old[i] == new[j]:
                reach((i + 1, j + 1), here)
            if i < len(old):
                reach((i + 1, j), here + 1)
            if j < len(new):
                reach((i, j + 1), here + 1)
            for first, end in places:
                if first == i:
                    for stop in range(j + 1, len(new) + 1):
                        reach((end, stop), here + 1 + max(stop - j - (end - first), 0))
    return fewest[len(old), len(new)]
