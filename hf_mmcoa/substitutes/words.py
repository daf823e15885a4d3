"""Find and replace the words of a text, and list the stop words, which carry no meaning of their own.

A regular expression finds them, not a tokenizer: what lies between the words (spaces, punctuation) survives a
replacement unchanged, and every source and model can map the words to its own tokens by their positions in the text.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher

# Letters and digits, with apostrophes inside: "don't" is one word, "red-hot" is two.
WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")

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


def replace_word(text: str, index: int, word: str) -> str:
    """Replace one word of `text` and leave the rest unchanged.

    Args:
        text: the text.
        index: number of the word, counted from 0 as by `split_words`.
        word: the word that takes its place.

    Raises:
        IndexError: if the text has no such word.
    """
    spans = split_words(text)
    if not 0 <= index < len(spans):
        raise IndexError(f"`index` {index} is not a word of {text!r}, which has {len(spans)}.")
    start, end = spans[index]
    return text[:start] + word + text[end:]


def changed_words(before: str, after: str) -> list[tuple[str, str]]:
    """Return the words in which two texts differ, in order, as (before, after).

    Of an inserted or deleted word, one of the two is empty.

    Example:
        >>> changed_words("a photo of a dog.", "a photo of a hound.")
        [('dog', 'hound')]
    """
    old, new = WORD.findall(before), WORD.findall(after)
    if len(old) == len(new):
        return [pair for pair in zip(old, new, strict=True) if pair[0] != pair[1]]
    blocks = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    return [(" ".join(old[a:b]), " ".join(new[c:d])) for kind, a, b, c, d in blocks if kind != "equal"]
