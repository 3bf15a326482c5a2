"""Fernhollow: the same text for the same seed, true to its facts, and with nothing in it that is held out."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterable
from functools import cache
from itertools import islice, pairwise
from random import Random
from typing import Any

import pytest

from fernhollow import chats, conversation, document, documents, lore, scenes, sums
from fernhollow.asked import TASKS
from fernhollow.documents import _KINDS
from fernhollow.facts import ASKED, FACTS, KEYS, RELATIONS, answer, check_relations, questions
from fernhollow.grammar import expand, pattern
from fernhollow.letters import back, lookup
from fernhollow.problems import EASY, HARD, NEW, RISING, SEEN, Grade, holds_new, one_step, problem, step
from fernhollow.rhymes import is_rhyme
from fernhollow.split import OTHER_WORDS, side, wordings
from fernhollow.stories import flaw, story
from fernhollow.typed import CHANGES
from fernhollow.words import KNOWN, spell
from fledge.text.chat import Conversation, check_turns

HELD = ("validation", "test")
TEXTS = 2_500


@cache
def training_conversations() -> tuple[Conversation, ...]:
    return tuple(conversation(5, index, stage=stage) for stage in ("midtrain", "sft") for index in range(TEXTS))


@pytest.fixture(scope="module")
def training_text() -> str:
    """A good deal of what the stages train on."""
    said = ("\n".join(message.text for message in talk) for talk in training_conversations())
    return "\n\n".join([*islice(documents(5), TEXTS), *said])


def test_a_document_depends_on_seed_and_index_alone() -> None:
    stream = list(islice(documents(7), 40))
    assert stream[25:] == list(islice(documents(7, start=25), 15))
    assert document(7, 12) == stream[12] != document(8, 12)
    assert conversation(7, 3, stage="sft") == conversation(7, 3, stage="sft") != conversation(7, 3, stage="midtrain")


def test_training_and_validation_documents_never_coincide() -> None:
    train, validation = (set(islice(documents(0, split=split), 800)) for split in ("train", "validation"))
    assert not train & validation
    assert "validation" not in {side("document", text) for text in train}


def test_every_conversation_alternates_and_ends_with_an_answer() -> None:
    for talk in training_conversations():
        check_turns(talk, "world")
        assert talk[-1].role == "assistant"
        assert all(part.text for message in talk for part in message.parts)


def test_no_template_leaves_a_trace_in_the_text(training_text: str) -> None:
    lines = [line for line in training_text.splitlines() if "return" not in line and '"""' not in line]
    lines = [
        line for line in lines if not re.search("(?i)how (many|often)|count|number of", line)
    ]  # the letter a is no article
    assert not [line for line in lines if re.search(r"[{}|<>]|  |\ba [aeiou]\w", line)]
    asked = [message.text for task in TASKS.values() for one in task.load("test") for message in one.question]
    assert asked
    assert not [text for text in asked if re.search(r"{\w*}|\[[^\]]*\|", text)]


def test_no_question_for_a_held_out_fact_is_ever_asked_in_training(training_text: str) -> None:
    asked = {split: {question for key in ASKED[split] for question in questions(key)} for split in ASKED}
    assert not asked["train"] & (asked["validation"] | asked["test"])
    assert not asked["validation"] & asked["test"]
    assert not [question for split in HELD for question in asked[split] if question in training_text]
    told = [any(question in training_text for question in questions(key)) for key in ASKED["train"]]
    assert sum(told) > 0.9 * len(told)


def heard(text: str) -> str:
    """Letters and digits in a row, whatever else stands between them and however they are written."""
    return " ".join(re.findall(r"[a-z0-9']+", text.lower()))


def test_training_never_asks_in_the_words_that_are_held_out() -> None:
    users = {heard(said.text) for talk in training_conversations() for said in talk if said.role == "user"}
    for key in KEYS:
        assert not {heard(asked) for asked in questions(key, other=True)} & users
    said = lore.read("chats")
    fixed = [one["questions"] for one in said["identity"]] + [
        said["any_story"],
        said["rhyme"],
        said["riddle"],
        said["joke"],
    ]
    for templates in fixed:
        held = {heard(template) for template in wordings(templates, other=True)}
        assert len(held) >= OTHER_WORDS
        assert not held & users
        assert {heard(template) for template in wordings(templates)} & users


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_how_people_type_keeps_what_is_asked(change: str) -> None:
    rng, changed = Random(6), 0
    for key in KEYS[::7]:
        question = questions(key)[0]
        typed_one = CHANGES[change](rng, question)
        changed += typed_one != question
        if change not in ("misspelled", "contracted", "texted"):
            assert heard(question) in heard(typed_one)
        assert abs(len(typed_one) - len(question)) < 40
    assert changed > 5


def test_every_held_out_fact_is_told_in_training_in_the_words_of_its_answer() -> None:
    text = "\n".join(islice(documents(5), 7_000))
    told = [answer(key)[1:] in text for split in HELD for key in ASKED[split]]
    assert sum(told) / len(told) > 0.98


def test_words_and_names_of_training_are_known_or_on_the_train_side(training_text: str) -> None:
    words = {found.lower() for found in re.findall(r"The word (\w+) is spelled", training_text)}
    names = {found.lower() for found in re.findall(r"Your name is (\w+)\.", training_text)}
    assert {side("word", found) for found in words - set(KNOWN)} == {"train"}
    assert {side("name", found) for found in names} == {"train"}


def test_words_are_spelled_as_they_are(training_text: str) -> None:
    spelled = re.findall(r"The word (\w+) is spelled ([a-z-]+)\.", training_text)
    assert len(spelled) > 1_000
    assert all(spell(found.lower()) == letters for found, letters in spelled)


def test_yes_and_no_about_letters_and_rhymes_are_true(training_text: str) -> None:
    letters = re.findall(r"The number of (\w)'s in (\w+) is (\d+), so (yes|no)\.", training_text)
    assert {said for *_, said in letters} == {"yes", "no"}
    assert all(
        int(count) == word.count(letter) and (said == "yes") == (letter in word)
        for letter, word, count, said in letters
    )
    pairs = re.findall(r"(Yes|No), (\w+) (?:rhymes|does not rhyme) with (\w+)\.", training_text)
    assert {said for said, *_ in pairs} == {"Yes", "No"}
    assert all((said == "Yes") == is_rhyme(f"{one}\n{other}") for said, one, other in pairs)


def test_what_users_tell_of_themselves_is_told_back_to_them() -> None:
    rng = Random(0)
    for _ in range(6000):
        told = scenes.of_the_user(rng)
        for asked, said in told.questions:
            assert not re.search(
                r"\b(?:is|has|does|of|from|with|gave|made|give|find) I\b|\bI (?:is|has|goes|does|and)\b|\bI\b.*\band is\b"
                r"|\b(?:was|have|did|of) me\b|\bI\b.*\b(?:he|him|his|her|she)\b",
                f"{asked} {re.split(r'[.;] |, (?:and |but |while )?| and (?=my|I)', told.text)[0]}",
            ), (told, asked)
            assert not re.search(r"\b(?:I|me|[Mm]y|[Ww]e|[Oo]ur)\b", said), said
            # Nothing is said that was not told: but for who it is about, and so a form of to be.
            words = [{*re.findall(r"[^\s.,;]+", each.lower())} for each in (said, told.text)]
            assert words[0] - words[1] <= {"you", "your", "are", "were"}, (told, said)


def test_answers_about_a_scene_stand_in_it_also_where_two_sentences_became_one() -> None:
    rng, joined = Random(0), 0
    for _ in range(2000):
        read = scenes.scene(rng)
        for _, said in read.questions:
            if not said.startswith("You"):  # said to users in other words
                assert said[1:-1] in read.text, (read, said)
                joined += said not in read.text
        assert not re.search(
            r"(?:[,;]| and)(?: and| but| while)? (?:The|In|My|He|She|Today|On|At|Before|After)\b", read.text
        )
    assert joined > 200


def test_of_the_choices_of_a_question_for_the_subject_one_is_right() -> None:
    rng = Random(0)
    for subject, relation in ASKED["train"]:
        for _ in range(20):
            _, choices = back(rng, (subject, relation), count=4) or ("", (subject,))
            value = FACTS[subject, relation]
            assert [each for each in choices if FACTS.get((each, relation)) == value] == [subject]
            assert value not in choices


def test_long_decimals_are_cut_where_they_are_said_and_not_where_they_are_computed() -> None:
    assert [sums.shown(each) for each in ("3", "3.5", "0.0625", "3.33333333333", "433.111111111")] == [
        "3", "3.5", "0.0625", "3.333...", "433.111...",
    ]  # fmt: skip
    assert chats.computed("10/3", "3.33333333333").text == "It is 3.333..."


def test_stories_and_functions_of_training_are_on_the_train_side(training_text: str) -> None:
    pairs = set(re.findall(r"(?:story|tale) [^.?!\n]*\ban? (\w+) and an? (\w+)", training_text))
    animals, things = {*lore.ANIMALS, *lore.OUTSIDE["creatures"]}, {*lore.OBJECTS, *lore.OUTSIDE["things"]}
    pairs = [pair for pair in pairs if pair[0] in animals and pair[1] in things]  # the others are misspelled
    assert {side("story", *pair) for pair in pairs} == {"train"}
    functions = set(
        re.findall(r"def (\w+)\(\w+\):\n    \"\"\"Return .*?(\d*)(?: times|\.| letters.*)\"\"\"", training_text)
    )
    keys = [name.split("_") if "_" in name else (name, number) for name, number in functions]
    assert len(keys) > 100
    assert {side("function", *key) for key in keys if "".join(key) and key[-1]} == {"train"}


def test_problems_of_training_use_numbers_and_orders_of_the_train_side() -> None:
    signs = {"+": "add", "-": "sub", "*": "mul", "/": "div"}
    solutions = 0
    for talk in training_conversations():
        if "####" not in talk[-1].text:
            continue
        calls = [re.fullmatch(r"(\d+)([-+*/])(\d+)", part.text) for part in talk[-1].parts if part.kind == "python"]
        found = [call for call in calls if call]
        if found:
            solutions += 1
            order = tuple(signs[call[2]] for call in found)
            assert order in EASY.orders
            assert not holds_new(order)
            assert side("numbers", found[0][1], *(call[3] for call in found)) == "train"
    assert solutions > 300


def test_no_sum_that_is_held_out_is_calculated_in_training() -> None:
    """But in the steps of long problems, whose numbers are what they come to."""
    rng = Random(3)
    learned = {sums.expression(rng, "train").code for _ in range(20_000)}
    learned |= {sums.named(rng, table).code for table in ("named_sums", "whole_sums") for _ in range(5_000)}
    learned |= {one_step(rng, "train").code for _ in range(10_000)}
    for split in HELD:
        asked = [sums.expression(rng, split) for _ in range(3_000)]
        assert not learned & {one.code for one in asked}


def test_new_orders_are_new_also_inside_the_hard_ones() -> None:
    assert not set(NEW) & set(SEEN)
    assert not [order for order in HARD.orders + RISING.orders if any(pair in NEW for pair in pairwise(order))]


def test_a_short_problem_comes_to_a_whole_number_above_zero() -> None:
    rng = Random(1)
    results = [one_step(rng, split).result for split in ("train", *HELD) for _ in range(400)]
    assert not [result for result in results if not result.isdigit() or result == "0"]


@pytest.mark.parametrize("grade", [Grade(SEEN), Grade(NEW), HARD, RISING])
def test_a_problem_comes_to_what_its_numbers_come_to(grade: Grade) -> None:
    rng = Random(1)
    for _ in range(200):
        found = problem(rng, grade, "train")
        total = found.numbers[0]
        for operation, number in zip(found.order, found.numbers[1:], strict=True):
            total = step(operation, total, number)
        assert total == found.number
        assert found.solution[-1].text.endswith(f"#### {total}")
        assert all(str(number) in found.question for number in found.numbers)


def test_every_generated_story_is_true_and_as_requested() -> None:
    rng = Random(2)
    for _ in range(500):
        told = story(rng, "train")
        assert flaw(told.text, hero=told.hero, animal=told.animal, thing=told.thing) is None
        assert all(said[-1] == "." for _, said in told.questions)


def test_a_story_with_one_untrue_word_is_found_out() -> None:
    rng, replaced = Random(3), 0
    sounds = tuple(FACTS[animal, "sound"] for animal in lore.ANIMALS)
    tables = (lore.ANIMALS, lore.OBJECTS, lore.JOBS, sounds)
    for _ in range(300):
        told = story(rng, "train")
        table = rng.choice(tables)
        present = [
            name
            for name in table
            if re.search(rf"\b{name}\b", told.text) and name in (told.animal, told.thing, *lore.JOBS)
        ]
        if present:
            replaced += 1
            other = rng.choice([name for name in table if name not in told.text])
            changed = re.sub(rf"\b{present[0]}\b", other, told.text, count=1)
            assert flaw(changed, hero=told.hero, animal=told.animal, thing=told.thing), changed
    assert replaced > 100


def test_a_list_of_letters_is_repeated_whole_and_right() -> None:
    rng = Random(4)
    for _ in range(100):
        text = lookup(rng)
        pairs = set(re.findall(r"^- (.+=[A-F])$", text, re.MULTILINE))
        rest = [line for line in text.splitlines() if not line.startswith("- ")]
        assert len(rest) == 2
        assert all(line.count("=") == len(pairs) and all(pair in line for pair in pairs) for line in rest)


def test_expanding_fills_slots_draws_choices_and_mends_articles() -> None:
    said = {
        expand(Random(seed), "[a|the [old|new]] {animal} came. {he} sat.", {"animal": "owl", "he": "he"})
        for seed in range(40)
    }
    assert said == {"An owl came. He sat.", "The old owl came. He sat.", "The new owl came. He sat."}


def test_a_pattern_reads_what_its_template_wrote() -> None:
    template = "[a|the] {animal} met a {animal} at the {p}."
    found = pattern(template).fullmatch(expand(Random(1), template, {"animal": "ant", "p": "old mill"}))
    assert found
    assert found.groupdict() == {"animal_1": "ant", "animal_2": "ant", "p_1": "old mill"}


def test_every_fact_has_one_value_and_friends_form_one_ring() -> None:
    assert len(FACTS) == len(KEYS) == sum(len(keys) for keys in ASKED.values())
    ring = [lore.PEOPLE[0]]
    while (friend := FACTS[ring[-1], "friend"]) != ring[0]:
        ring.append(friend)
    assert sorted(ring) == sorted(lore.PEOPLE)


def test_every_kind_of_text_has_its_share_and_every_share_its_kind() -> None:
    assert set(lore.read("chats")["mix"]) == {kind.__name__ for kind in chats._KINDS}
    assert set(lore.read("documents")["shares"]) == {kind.__name__ for kind in _KINDS}


def digest(texts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def written(talk: Conversation) -> str:
    return "\n".join(f"{message.role} {part.kind}: {part.text}" for message in talk for part in message.parts)


AGES = {(place, "age"): f"{years} years old" for years, place in enumerate(lore.PLACES)}
AGE = RELATIONS["sight"]._replace(answer="The {e} is {v}.")


@pytest.mark.parametrize(
    ("relations", "facts", "message"),
    [
        ({}, AGES, r"\[relations.age\] is missing, and age is a column of a table; add it"),
        ({"age": AGE}, dict.fromkeys(AGES, "old"), "fewer than two different values are known"),
        ({"age": AGE}, {}, "fewer than two different values are known"),
        ({"age": AGE._replace(either=AGE.either[:2])}, AGES, "2 either, of which 2 are held out; write 3 or more"),
        ({"age": AGE._replace(checks=())}, AGES, "0 checks, of which 2 are held out; write 3 or more"),
    ],
)
def test_a_relation_of_which_no_question_can_be_made_is_refused(
    relations: dict[str, Any], facts: dict[Any, str], message: str
) -> None:
    check_relations(RELATIONS | {"age": AGE}, FACTS | AGES)
    with pytest.raises(ValueError, match=message):
        check_relations(RELATIONS | relations, FACTS | facts)


def test_the_text_of_a_seed_is_what_it_always_was() -> None:
    """What was measured on this text holds only for this text. To change it on purpose, put in what the failure shows."""
    examples = (example for _, task in sorted(TASKS.items()) for example in task.load("test")[:10])
    texts = {
        "train": islice(documents(5), 300),
        "validation": islice(documents(5, split="validation"), 100),
        "conversations": map(written, training_conversations()[::10]),
        "examples": (f"{written(one.messages)} {one.prompt} {one.choices} {one.answer}" for one in examples),
    }
    assert {name: digest(found) for name, found in texts.items()} == {
        "train": "384c0ebd26bcd96c",
        "validation": "7408bcbb85efa35c",
        "conversations": "455e4c3398fe55df",
        "examples": "8357a0a62b5c34f8",
    }


def test_a_character_costs_less_than_half_a_call() -> None:
    """Two million characters a second, so that a demo's text costs seconds; counted, because clocks depend on the load."""
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    list(islice(documents(9), 500))  # parses the templates
    sys.setprofile(count)
    try:
        characters = sum(len(text) for text in islice(documents(9), 500))
    finally:
        sys.setprofile(None)
    assert 0 < calls < 0.5 * characters
