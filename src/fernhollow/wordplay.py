"""Conversations that play with words: to spell them, to count their letters, rhymes, riddles and jokes.

spelling(rng)      # (Message user 'How do you spell lantern?', Message assistant 'The word lantern is spelled l-a-n-t-e-r-n.')
counting(rng)      # How many e's are in beekeeper? ... And in lantern? ... Can you spell it?
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from fernhollow import lore
from fernhollow.company import about_the_user
from fernhollow.grammar import expand, pick
from fernhollow.rhymes import NOUNS, RHYMES, is_rhyme, own_riddle, poem_about, poem_on, rhyme, riddle_of
from fernhollow.split import Side, weighted, wording, wordings
from fernhollow.words import spell, spelling_word, stranger
from fledge.text.chat import Conversation, Part, say, talk

_SAID = lore.read("wordplay")
_GOES_ON = 0.3
"""How often another question follows, and after it the next."""
_SOUND_OPEN = "aefhilmnorsx"
"""Letters whose name begins with a vowel: an f."""


def spelling(rng: Random, split: Side = "train", *, other: bool = False) -> Conversation:
    """How a word is spelled; in training also what its first or last letter is, and what people ask next."""
    word = spelling_word(rng, split)
    if split == "train" and rng.random() < 0.12:
        turns = _letter_at(rng, word)
    else:
        turns = _spelled(rng, word, wordings(_SAID["spelling"], other=other), split)
    while split == "train" and rng.random() < _GOES_ON:
        if rng.random() < 0.25:
            turns += _about_it(rng, word)
        else:
            word = spelling_word(rng, split)
            turns += _spelled(rng, word, _SAID["spells_on"], split)
    return turns


def counting(rng: Random, split: Side = "train", *, other: bool = False) -> Conversation:
    """How often a letter is in a word, counted by the tool; in training also whether it is, how long a word is, and more."""
    word, letter = spelling_word(rng, split), ""
    if split == "train" and rng.random() < 0.25:
        turns = _compared(rng, word) if rng.random() < 0.25 else _length(rng, word)
    else:
        letter = _letter_to_count(rng, word)
        is_check = split == "train" and rng.random() < 0.15
        templates = wordings(_SAID["has_letter" if is_check else "counting"], other=other)
        turns = _counted(rng, word, letter, templates, split, is_check=is_check)
    while split == "train" and rng.random() < _GOES_ON:
        if rng.random() < 0.5:
            turns += _about_it(rng, word, letter)
        else:
            word = spelling_word(rng, split)
            if letter:
                turns += _counted(rng, word, letter, _SAID["counts_on"], split)
            else:
                turns += _measured(_ask(rng, _SAID["counts_on"], word), word)
    return turns


def _about_it(rng: Random, word: str, letter: str = "") -> Conversation:
    """A question that leans on the word that was just spoken of: its spelling, its length, or another of its letters."""
    kind = rng.random()
    if kind < 0.35 and letter:
        return _spelled(rng, word, _SAID["spell_it"], "train", shown=word)
    if kind < 0.7:
        return _measured(_ask(rng, _SAID["length_of_it"], word), word)
    return _counted(rng, word, _letter_to_count(rng, word), _SAID["and_letter"], "train")


def _spelled(rng: Random, word: str, templates: Sequence[str], split: Side, *, shown: str = "") -> Conversation:
    shown = shown or (word.capitalize() if split == "train" and rng.random() < 0.2 else word)
    asked = _ask(rng, templates, shown, max(word, key=word.count))
    return talk(asked, f"The word {shown} is spelled {spell(word)}.")


def _letter_at(rng: Random, word: str) -> Conversation:
    """The first letter of a word, or another: spelled out first, because letters are seen only there."""
    which, place = rng.choices((("first", 0), ("last", -1), ("second", 1), ("third", 2)), (5, 4, 2, 1))[0]
    asked = _ask(rng, wordings(_SAID["letter_at"][which]), word)
    return talk(asked, f"The word {word} is spelled {spell(word)}. Its {which} letter is {word[place]}.")


def _counted(
    rng: Random, word: str, letter: str, templates: Sequence[str], split: Side, *, is_check: bool = False
) -> Conversation:
    shown, as_typed = word, letter
    if split == "train" and rng.random() < 0.15:
        shown, as_typed = pick(rng, ((word.capitalize(), letter), (word, letter.upper())))
    asked = _ask(rng, templates, shown, as_typed)
    # With a blank before it, the word is the same tokens as in the sentence, and has only to be copied.
    code, count = f"' {word}'.count('{letter}')", str(word.count(letter))
    parts = (f"The number of {letter}'s in {word} is ", Part("python", code), Part("output", count))
    end = f", so {_yes(count != '0')}." if is_check else f".\n#### {count}"
    return (say("user", asked), say("assistant", *parts, f"{count}{end}"))


def _length(rng: Random, word: str) -> Conversation:
    """How many letters a word has, or whether they are more, less or as many as a number."""
    if rng.random() >= 0.35:
        return _measured(_ask(rng, wordings(_SAID["lengths"]), word), word)
    count, (template, sign) = len(word), wording(rng, _SAID["longer"])
    limit = max(1, count - 2 + int(rng.random() * 5))
    is_so = {">": count > limit, "<": count < limit, "=": count == limit}[sign]
    return _measured(_ask(rng, [template], word, number=limit), word, f", so {_yes(is_so)}.")


def _measured(asked: str, word: str, end: str = "") -> Conversation:
    end = end or f".\n#### {len(word)}"
    return (say("user", asked), say("assistant", *_letters_of(word), f" letters{end}"))


def _letters_of(word: str, opening: str = "The") -> tuple[str | Part, ...]:
    count = str(len(word))
    return (f"{opening} word {word} has ", Part("python", f"len('{word}')"), Part("output", count), count)


def _compared(rng: Random, word: str) -> Conversation:
    """Which of two words is longer, or shorter."""
    other = spelling_word(rng, "train")
    template, sign = wording(rng, _SAID["compared"])
    asked = _quoted(rng, expand(rng, template, {"w": word, "v": other}))
    shorter, longer = sorted((word, other), key=len)
    end = f"{longer} is longer" if sign == ">" else f"{shorter} is shorter"
    if len(word) == len(other):
        end = "they are equally long"
    parts = (*_letters_of(word), " letters", *_letters_of(other, ", the"), f" letters, so {end}.")
    return (say("user", asked), say("assistant", *parts))


def _ask(rng: Random, templates: Sequence[str], word: str, letter: str = "e", *, number: int = 0) -> str:
    """One of the wordings with its slots filled; the letter a is no article, and there is an f in leaf."""
    mark = "e\0" if letter.lower() in _SOUND_OPEN else "\0"
    asked = expand(rng, weighted(rng, templates), {"w": word, "c": mark, "k": str(number)})
    return _quoted(rng, asked.replace(mark, letter).replace(mark.upper(), letter))


def _quoted(rng: Random, asked: str) -> str:
    """With single quotes as often as with double ones."""
    return asked.replace('"', "'") if rng.random() < 0.5 else asked


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"


def _letter_to_count(rng: Random, word: str) -> str:
    """The most frequent letter, any letter of the word, or any at all, so that no count is much likelier than another."""
    kind = rng.random()
    if kind < 0.55:
        return max(word, key=word.count)
    return pick(rng, word) if kind < 0.75 else pick(rng, "abcdefghijklmnopqrstuvwxyz")


def riddles(rng: Random, split: Side = "train", *, other: bool = False) -> Conversation:
    """One to three clues and who it is; in training the model also asks itself."""
    if split != "train" or rng.random() < 0.5:
        clues, name = riddle_of(rng)
        return talk(clues, expand(rng, "You are a {n}!", {"n": name}))
    turns = _guessed(rng, expand(rng, wording(rng, _SAID["riddle"], other=other), {}))
    while rng.random() < _GOES_ON:
        turns += _guessed(rng, _said(rng, "riddle_again"))
    return turns


def _guessed(rng: Random, asked: str) -> Conversation:
    """A riddle of the model, which somebody guesses, does not guess, or gives up, at times after a hint."""
    clues, name, hint = own_riddle(rng)
    turns = [asked, clues]
    if rng.random() < 0.2:
        turns += [_said(rng, "hints"), hint]
    kind = rng.random()
    if kind < 0.3:
        return talk(*turns, _said(rng, "gives_up"), expand(rng, "I am a {n}!", {"n": name}))
    guess = name if kind < 0.65 else pick(rng, (*lore.ANIMALS, *lore.OUTSIDE["creatures"]))
    said = "Yes, I am a {n}!" if guess == name else "No, I am a {n}!"
    return talk(*turns, _said(rng, "guesses", n=guess), expand(rng, said, {"n": name}))


def poem(rng: Random) -> Conversation:
    """A rhyme on request, a word that rhymes, whether two do, or a joke; and at times another."""
    kind = rng.random()
    if kind < 0.6:
        return _and_more(rng, rhyming(rng))
    if kind < 0.8:
        word = pick(rng, tuple(RHYMES))
        return _do_rhyme(rng, word) if rng.random() < 0.35 else _what_rhymes(rng, word)
    joke, next_one = rng.sample(_SAID["jokes"], 2)
    more = (_said(rng, "again"), next_one) if rng.random() < 0.2 else ()
    return talk(expand(rng, wording(rng, _SAID["joke"]), {}), joke, *more)


def _what_rhymes(rng: Random, word: str) -> Conversation:
    """One word that rhymes, or two; then perhaps one more, or one for another word."""
    first, *others = RHYMES[word]
    if others and rng.random() < 0.12:
        asked = expand(rng, wording(rng, _SAID["two_rhymes"]), {"x": word})
        return talk(asked, expand(rng, "{y} and {z} rhyme with {x}.", {"x": word, "y": first, "z": others[0]}))
    asked = _said(rng, "rhyme_begun", x=word) if word in NOUNS and rng.random() < 0.15 else ""
    turns = [asked or expand(rng, wording(rng, _SAID["what_rhymes"]), {"x": word}), _rhymes_with(rng, first, word)]
    if others and rng.random() < 0.15:
        turns += [_said(rng, "another_rhyme"), _rhymes_with(rng, others[0], word)]
    while rng.random() < _GOES_ON:
        word = pick(rng, tuple(RHYMES))
        turns += [_said(rng, "and_rhyme", x=word), _rhymes_with(rng, RHYMES[word][0], word)]
    return talk(*turns)


def _rhymes_with(rng: Random, found: str, word: str) -> str:
    return expand(rng, "{y} rhymes with {x}.", {"x": word, "y": found})


def _do_rhyme(rng: Random, word: str) -> Conversation:
    """Whether two words rhyme."""
    other = pick(rng, RHYMES[word] if rng.random() < 0.5 else [each for each in RHYMES if each != word])
    said = "Yes, {x} rhymes with {y}." if is_rhyme(f"{word}\n{other}") else "No, {x} does not rhyme with {y}."
    slots = {"x": word, "y": other}
    return talk(expand(rng, wording(rng, _SAID["do_rhyme"]), slots), expand(rng, said, slots))


def rhyming(rng: Random, split: Side = "train", *, other: bool = False) -> Conversation:
    """A poem on request: about anything, about a thing that rhymes, or for somebody or something that need not."""
    kind = rng.random()
    if kind < 0.4:
        return talk(expand(rng, wording(rng, _SAID["rhyme"], other=other), {}), rhyme(rng))
    if kind < 0.7:
        word = pick(rng, tuple(NOUNS))
        asked = expand(rng, wording(rng, _SAID["rhyme_about"], other=other), {"x": word})
        return talk(asked, poem_about(rng, word))
    asked, said = _dedicated(rng, wording(rng, _SAID["rhyme_on"], other=other), split)
    return talk(asked, said)


def _dedicated(rng: Random, template: str, split: Side) -> tuple[str, str]:
    """A request of a poem on a subject, and the poem: any name and any word may be one."""
    kind = rng.random()
    about = pick(rng, _SAID["poem_subjects"])
    if kind < 0.3:
        about = pick(rng, lore.PEOPLE) if kind < 0.06 else stranger(rng, split)
    elif kind < 0.4:
        about = about_the_user(rng, split)["word"]
    return expand(rng, template, {"t": about}), poem_on(rng, about)


def _and_more(rng: Random, turns: Conversation) -> Conversation:
    """And another poem, about anything or about one thing."""
    while rng.random() < 0.2:
        kind, word = rng.random(), pick(rng, tuple(NOUNS))
        if kind < 0.5:
            turns += talk(_said(rng, "again"), rhyme(rng))
        elif kind < 0.75:
            turns += talk(_said(rng, "again_about", x=word), poem_about(rng, word))
        else:
            turns += talk(*_dedicated(rng, pick(rng, _SAID["again_on"]), "train"))
    return turns


def _said(rng: Random, name: str, **slots: str) -> str:
    """One of the things that people say next."""
    return expand(rng, weighted(rng, _SAID[name]), slots)
