"""Writes the demo data: spoken home-automation commands, each answered with one JSON tool call.

    python data/raw/demo/generate.py            writes commands.jsonl and broken.jsonl beside this file
    python data/raw/demo/generate.py --check    exit status 1 if the committed files differ from that

The rows are made so that a 135M model can learn them in one pass over the training rows, and so that
remembering rows isn't enough: val and test ask for combinations that no training row contains.

The held-out rule
-----------------
The pair of a tool call is (tool, room), or, for a tool without a room, (first argument, second argument) of
that tool. Both halves have a position in the tables below. The two positions are added up, and the last digit
of the sum decides where the pair may occur (`HELD_OUT`): 2 or 7 in test only, 4 in val only, any other in
training.

A refused command has no call. An unknown device or a chore goes by the last digit of its position in its own
table, so what is unknown in val and test is unknown in training too. An unknown room goes by (tool, room) as
a known one does, and a value out of range by (tool, value): both positions added up.

Training rows hold training pairs only. Each row of val or test ends in an answer with at least one pair that
is held out for it; its other pairs, if any, are training pairs or held out for the same split. Each of its
arguments alone is in a training row.
"""

import argparse
import json
import random
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
SEED = 20261122
HELD_OUT = {2: "test", 7: "test", 4: "val"}
ROWS = {
    "train": {"single": 520, "multi_step": 150, "refusal": 220, "multi_turn": 110},
    "val": {"single": 21, "multi_step": 6, "refusal": 8, "multi_turn": 5},
    "test": {"single": 42, "multi_step": 12, "refusal": 16, "multi_turn": 10},
}
MAX_WORDS = 20


# --- What can be said ---------------------------------------------------------------------------------------

ROOMS = (
    "kitchen", "bedroom", "bathroom", "living room", "dining room",
    "hallway", "office", "garage", "nursery", "attic",
)  # fmt: skip
DOORS = ("front door", "back door", "side door", "garage door", "cellar door", "balcony door")
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
DISHES = ("pasta", "pizza", "rice", "tea", "bread", "cake", "soup", "fish", "steak", "potato")
COLORS = ("red", "green", "blue", "purple", "orange", "pink", "yellow", "turquoise", "white")
GENRES = ("jazz", "rock", "pop", "blues", "techno", "country", "reggae", "soul", "folk", "opera")
COFFEES = ("espresso", "cappuccino", "latte", "americano", "mocha", "macchiato")
OVEN_MODES = ("bake", "grill", "roast", "toast", "broil")
FAN_SPEEDS = ("low", "medium", "high")
VACUUM_MODES = ("quiet", "eco", "turbo")

UNITS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
TENS = ("ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
DURATIONS = {
    "ten minutes": 10,
    "twenty minutes": 20,
    "half an hour": 30,
    "an hour": 60,
    "an hour and a half": 90,
}

UNKNOWN_ROOMS = (  # not of this house
    "castle", "lighthouse", "stable", "chapel", "dungeon", "igloo", "barn", "windmill", "palace", "tent",
)  # fmt: skip
UNKNOWN_DEVICES = (
    "helicopter", "tractor", "spaceship", "rocket", "steam engine", "time machine", "bulldozer", "submarine",
    "jet pack", "cannon", "hovercraft", "teleporter", "race car", "forklift", "motorbike", "catapult",
    "chainsaw", "airplane", "zeppelin", "ferris wheel", "crane", "laser gun", "hot air balloon", "speed boat",
    "fire truck", "snow plow", "slot machine", "cable car", "robot dog", "printing press",
)  # fmt: skip
CHORES = (
    "walk the dog", "feed the cat", "wash the car", "buy some milk", "call my sister", "write a letter",
    "book a flight", "order a pizza", "pay the rent", "mow the lawn", "feed the horse", "buy some shoes",
    "wash my shirts", "write a poem", "walk the puppy", "call my boss", "order a salad", "book a table",
    "send an email", "pay the bills", "buy some flowers", "call a taxi", "feed the hamster",
    "send a postcard", "write an essay", "book a hotel", "mow the grass", "wash the windows",
    "order a burger", "pay the fine", "pay my taxes", "call my mother", "send a letter", "buy some eggs",
    "write a song", "feed the birds", "wash my socks", "book a doctor", "order some noodles",
    "call the police",
)  # fmt: skip
BEYOND_SENSE = (
    "minus 5", "minus 10", "minus 15", "minus 20", "minus 30",
    "minus 40", "minus 50", "minus 60", "minus 70", "minus 80",
    "2 thousand", "3 thousand", "4 thousand", "5 thousand", "6 thousand",
    "7 thousand", "8 thousand", "9 thousand", "10 thousand", "20 thousand",
)  # fmt: skip


Args = dict[str, Any]  # a part of a tool call: argument name -> word or number


class Value(NamedTuple):
    """What is said, and the arguments that it means."""

    spoken: str
    args: Args


class Wording(NamedTuple):
    """Sentences that take the same values. A style of value is picked first, so that rare ones stay rare."""

    templates: tuple[str, ...]
    styles: tuple[tuple[Value, ...], ...]


class Tool(NamedTuple):
    """Two arguments: the first is a plain word out of a table, the second a `Value`."""

    name: str
    first_key: str
    firsts: tuple[str, ...]
    wordings: tuple[Wording, ...]  # the first one speaks its values out, so that a follow-up can change them


class Command(NamedTuple):
    """One command in plain words and the call that it stands for."""

    tool: Tool
    text: str
    first: str
    args: Args

    def call(self) -> dict:
        return {"tool": self.tool.name, self.tool.first_key: self.first, **self.args}


def fixed(templates: tuple[str, ...], **args: str | int) -> Wording:
    """A wording that says its value by its verb: "turn off the ..."."""
    return Wording(templates, ((Value("", args),),))


def words(key: str, table: Sequence[str]) -> tuple[tuple[Value, ...], ...]:
    """Values that are copied as they are said."""
    return (tuple(Value(word, {key: word}) for word in table),)


def percents(key: str) -> tuple[tuple[Value, ...], ...]:
    digits = tuple(Value(f"{n} percent", {key: n}) for n in range(5, 100, 5))
    spelled = tuple(Value(f"{word} percent", {key: 10 * n}) for n, word in enumerate(TENS, 1))
    half = (Value("half", {key: 50}),)
    return (digits, digits, digits, digits, spelled, spelled, half)


def room_degrees() -> tuple[tuple[Value, ...], ...]:
    def celsius(spoken: str, value: float) -> Value:
        return Value(spoken, {"value": value, "unit": "C"})

    whole = tuple(celsius(f"{n} degrees", n) for n in range(15, 27))
    tenths = tuple(celsius(f"{n}.5 degrees", n + 0.5) for n in range(15, 26))
    halves = tuple(celsius(f"{n} and a half degrees", n + 0.5) for n in range(15, 26))
    spelled = tuple(celsius(f"twenty {UNITS[n - 1]} degrees", 20 + n) for n in range(1, 6))
    fahrenheit = tuple(Value(f"{n} degrees fahrenheit", {"value": n, "unit": "F"}) for n in range(60, 81))
    return (whole, whole, tenths, halves, spelled, fahrenheit)


def oven_degrees() -> tuple[tuple[Value, ...], ...]:
    celsius = tuple(Value(f"{n} degrees", {"value": n, "unit": "C"}) for n in range(150, 260, 10))
    fahrenheit = tuple(Value(f"{n} degrees fahrenheit", {"value": n, "unit": "F"}) for n in range(300, 460, 25))
    return (celsius, celsius, fahrenheit)


def durations() -> tuple[tuple[Value, ...], ...]:
    digits = tuple(Value(f"{n} minutes", {"minutes": n}) for n in (5, 8, 10, 12, 15, 18, 20, 25, 30, 35, 40, 45, 50))
    spelled = tuple(Value(spoken, {"minutes": n}) for spoken, n in DURATIONS.items())
    return (digits, spelled)


def clock_times() -> tuple[tuple[Value, ...], ...]:
    """The hours that have to be worked out, "pm" and in words, are few, so that each is heard often enough."""

    def at(spoken: str, hour: int, minute: int) -> Value:
        return Value(spoken, {"time": f"{hour:02}:{minute:02}"})

    every_ten = range(0, 60, 10)
    am = tuple(at(f"{h}:{m:02} am", h, m) for h in range(5, 10) for m in every_ten)
    pm = tuple(at(f"{h}:{m:02} pm", h + 12, m) for h in range(6, 9) for m in every_ten)
    in_words = tuple(
        value
        for h in range(6, 9)
        for value in (
            at(f"quarter past {UNITS[h - 1]}", h, 15),
            at(f"half past {UNITS[h - 1]}", h, 30),
            at(f"{UNITS[h - 1]} o'clock", h, 0),
        )
    )
    return (am, pm, in_words)


def cups() -> tuple[tuple[Value, ...], ...]:
    def of(spoken: str, n: int) -> Value:
        return Value(f"{spoken} cup" if n == 1 else f"{spoken} cups", {"cups": n})

    return (tuple(of(str(n), n) for n in range(1, 5)), tuple(of(UNITS[n - 1], n) for n in range(1, 5)))


TOOLS = (
    Tool("set_light", "room", ROOMS, (
        Wording((
            "set the {first} lights to {value}",
            "dim the {first} lights to {value}",
            "put the lights in the {first} at {value}",
            "bring the {first} light to {value}",
            "set the brightness in the {first} to {value}",
        ), percents("brightness")),
        fixed(("turn on the {first} lights", "turn on the light in the {first}"), brightness=100),
        fixed(("turn off the {first} lights", "turn off the light in the {first}"), brightness=0),
    )),
    Tool("set_color", "room", ROOMS, (
        Wording((
            "make the {first} lights {value}",
            "turn the {first} lights {value}",
            "change the light in the {first} to {value}",
            "set the {first} light color to {value}",
        ), words("color", COLORS)),
    )),
    Tool("set_temperature", "room", ROOMS, (
        Wording((
            "set the {first} to {value}",
            "heat the {first} to {value}",
            "set the thermostat in the {first} to {value}",
            "bring the {first} to {value}",
            "set the {first} heating to {value}",
        ), room_degrees()),
    )),
    Tool("set_blinds", "room", ROOMS, (
        Wording((
            "set the {first} blinds to {value}",
            "move the blinds in the {first} to {value}",
            "put the {first} blinds at {value}",
        ), percents("position")),
        fixed(("open the {first} blinds", "open the blinds in the {first}"), position=100),
        fixed(("close the {first} blinds", "close the blinds in the {first}"), position=0),
    )),
    Tool("play_music", "room", ROOMS, (
        Wording((
            "play {value} in the {first}",
            "play some {value} music in the {first}",
            "put on some {value} in the {first}",
            "start {value} music in the {first}",
        ), words("genre", GENRES)),
    )),
    Tool("set_volume", "room", ROOMS, (
        Wording((
            "set the volume in the {first} to {value}",
            "set the {first} speaker to {value}",
            "put the {first} volume at {value}",
        ), percents("level")),
        fixed(("mute the {first} speaker", "turn the sound off in the {first}"), level=0),
    )),
    Tool("start_vacuum", "room", ROOMS, (
        Wording((
            "vacuum the {first} in {value} mode",
            "start the vacuum in the {first} in {value} mode",
            "clean the {first} floor in {value} mode",
            "run the vacuum in the {first} on {value}",
        ), words("mode", VACUUM_MODES)),
    )),
    Tool("set_fan", "room", ROOMS, (
        Wording((
            "set the {first} fan to {value}",
            "run the fan in the {first} on {value}",
            "turn the {first} fan to {value}",
        ), words("speed", FAN_SPEEDS)),
        fixed(("turn off the {first} fan", "stop the fan in the {first}"), speed="off"),
    )),
    Tool("set_lock", "door", DOORS, (
        fixed(("lock the {first}", "lock up the {first}", "make sure the {first} is locked"), state="locked"),
        fixed(("unlock the {first}", "open up the {first}", "leave the {first} unlocked"),
              state="unlocked"),
    )),
    Tool("set_timer", "label", DISHES, (
        Wording((
            "set a {first} timer for {value}",
            "start a {first} timer of {value}",
            "set a timer for the {first} for {value}",
            "time the {first} for {value}",
        ), durations()),
    )),
    Tool("set_alarm", "day", DAYS, (
        Wording((
            "set an alarm for {first} at {value}",
            "wake me up on {first} at {value}",
            "set my {first} alarm to {value}",
            "set the alarm on {first} for {value}",
        ), clock_times()),
    )),
    Tool("set_oven", "mode", OVEN_MODES, (
        Wording((
            "set the oven to {first} at {value}",
            "preheat the oven to {value} on {first}",
            "turn the oven to {first} at {value}",
            "heat the oven in {first} mode to {value}",
        ), oven_degrees()),
    )),
    Tool("make_coffee", "kind", COFFEES, (
        Wording((
            "make {value} of {first}",
            "brew {value} of {first}",
            "get me {value} of {first}",
            "prepare {value} of {first}",
        ), cups()),
    )),
)  # fmt: skip
ROOM_TOOLS = tuple(tool for tool in TOOLS if tool.first_key == "room")

DEVICE_TEMPLATES = (
    "start the {thing}",
    "turn on the {thing}",
    "turn off the {thing}",
    "switch on the {thing}",
    "fire up the {thing}",
    "stop the {thing}",
)

PREFIXES = (
    "please ", "could you ", "could you please ", "can you ", "can you please ", "would you ",
    "i want you to ", "hey, ", "okay, ",
)  # fmt: skip
SUFFIXES = (" please", " now", ", thanks", " for me", ", thank you")
JOINERS = (" and then ", " and ", ", then ", " and after that ")
NEW_VALUE = (
    "make it {value} instead",
    "no, {value}",
    "actually, {value}",
    "sorry, i meant {value}",
    "change that to {value}",
)
NEW_PLACE = (
    "no, the {first}",
    "sorry, i meant the {first}",
    "now the {first} too",
    "do the same for the {first}",
    "and the {first} as well",
)
MORE_OR_LESS = {
    "set_light": ("make it a bit brighter, {value}", "make it a bit darker, {value}"),
    "set_temperature": ("make it a bit warmer, {value}", "make it a bit cooler, {value}"),
    "set_volume": ("make it a bit louder, {value}", "make it a bit quieter, {value}"),
}

SYSTEMS = ("You control a house.", "Answer with one tool call.")
SYSTEM_SHARE = 0.85  # without one, the base model's template puts in its own, four times as long
POLITE_SHARE = 0.5


# --- The held-out rule --------------------------------------------------------------------------------------


def split_of_sum(position_sum: int) -> str:
    return HELD_OUT.get(position_sum % 10, "train")


def split_of_command(command: Command) -> str:
    """Where the pair of this command may occur."""
    tool = command.tool
    if tool.first_key == "room":
        return split_of_sum(ROOM_TOOLS.index(tool) + ROOMS.index(command.first))
    return split_of_sum(tool.firsts.index(command.first) + answers_of(tool).index(command.args))


def answers_of(tool: Tool) -> list[Args]:
    """The different second arguments of a tool, in table order: "half" and "50 percent" are the same one."""
    answers = []
    for wording in tool.wordings:
        for style in wording.styles:
            answers += [value.args for value in style if value.args not in answers]
    return answers


def members(table: Sequence, split: str, offset: int = 0) -> list:
    """The part of a table of refused things that this split may name."""
    return [thing for position, thing in enumerate(table) if split_of_sum(position + offset) == split]


# --- Drawing ------------------------------------------------------------------------------------------------


class Draw:
    """Random choices out of `random()` alone: the one method whose sequence Python promises not to change."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random

    def chance(self, share: float) -> bool:
        return self._random() < share

    def one(self, items: Sequence) -> Any:
        return items[int(self._random() * len(items))]

    def shuffled(self, items: Sequence) -> list:
        rest = list(items)
        return [rest.pop(int(self._random() * len(rest))) for _ in items]


def draw_command(draw: Draw, tool: Tool, splits: Sequence[str], wordings: Sequence[Wording] = ()) -> Command:
    """A command whose pair may occur in one of `splits`; each sentence of the tool is equally likely."""
    sentences = [(sentence, wording) for wording in wordings or tool.wordings for sentence in wording.templates]

    def any_command() -> Command:
        template, wording = draw.one(sentences)
        return say(tool, template, draw.one(tool.firsts), draw.one(draw.one(wording.styles)))

    return first_accepted(any_command, lambda command: split_of_command(command) in splits)


def first_accepted(draw_any: Callable, accept: Callable) -> Any:
    """Draws until one is accepted; tables that allow none end in an error, not in an endless loop."""
    for _ in range(2000):
        drawn = draw_any()
        if accept(drawn):
            return drawn
    raise RuntimeError("2000 draws and none accepted: a table is too small, or it has no such held-out pair")


def say(tool: Tool, template: str, first: str, value: Value) -> Command:
    return Command(tool, template.format(first=first, value=value.spoken), first, value.args)


def politely(draw: Draw, text: str) -> str:
    if not draw.chance(POLITE_SHARE):
        return text
    return draw.one(PREFIXES) + text if draw.chance(0.6) else text + draw.one(SUFFIXES)


def as_written_down(draw: Draw, text: str) -> str:
    """Mostly lower case, as a recogniser gives it; now and then a sentence, or a capital in an odd place."""
    if draw.chance(0.75):
        return text
    if draw.chance(0.5):
        question = text.startswith(("could", "can", "would"))
        return text[0].upper() + text[1:] + ("?" if question else ".")
    odd = draw.one(range(len(text.split())))
    return " ".join(word.capitalize() if i == odd else word for i, word in enumerate(text.split()))


# --- The four families: each gives the turns of one row as (user text, answer), and its tags ----------------

Turns = list[tuple[str, dict]]


def single(draw: Draw, split: str, tool: Tool) -> tuple[Turns, list[str]]:
    command = draw_command(draw, tool, [split])
    return [(politely(draw, command.text), command.call())], ["single", tool.name]


def multi_step(draw: Draw, split: str, tool: Tool) -> tuple[Turns, list[str]]:
    """Two commands in one breath: one has a pair of the split, the other may have a training pair."""
    other = draw.one([t for t in TOOLS if t is not tool])
    pair = [draw_command(draw, tool, [split]), draw_command(draw, other, [split, "train"])]
    first, second = draw.shuffled(pair)
    text = first.text + draw.one(JOINERS) + second.text
    answer = {"steps": [first.call(), second.call()]}
    return [(politely(draw, text), answer)], ["multi_step", first.tool.name, second.tool.name]


def refusal(draw: Draw, split: str, reason: str) -> tuple[Turns, list[str]]:
    if reason == "no_such_room":
        text = refused_room(draw, split)
    elif reason == "no_such_device":
        text = draw.one(DEVICE_TEMPLATES).format(thing=draw.one(members(UNKNOWN_DEVICES, split)))
    elif reason == "out_of_range":
        text = refused_value(draw, split)
    else:
        text = draw.one(members(CHORES, split))
    return [(politely(draw, text), {"tool": "none", "reason": reason})], ["refusal", reason]


def refused_room(draw: Draw, split: str) -> str:
    """What is asked for is fine; only the room is none of this house."""
    command = draw_command(draw, draw.one(ROOM_TOOLS), [split])
    room = draw.one(members(UNKNOWN_ROOMS, split, offset=ROOM_TOOLS.index(command.tool)))
    return command.text.replace(command.first, room)


def refused_value(draw: Draw, split: str) -> str:
    """A value beyond any sense, in a command that would be fine without it."""
    units = {
        "set_light": "percent",
        "set_blinds": "percent",
        "set_volume": "percent",
        "set_temperature": "degrees",
        "set_oven": "degrees",
        "make_coffee": "cups",
    }
    tool = draw.one([tool for tool in TOOLS if tool.name in units])
    number = draw.one(members(BEYOND_SENSE, split, offset=TOOLS.index(tool)))
    template = draw.one(tool.wordings[0].templates)
    fine = draw_command(draw, tool, [split])
    return template.format(first=fine.first, value=f"{number} {units[tool.name]}")


def multi_turn(draw: Draw, split: str, tool: Tool) -> tuple[Turns, list[str]]:
    """A command, then a short correction that only makes sense after it."""
    new_place = tool.first_key == "door" or (tool.first_key == "room" and draw.chance(0.4))
    before, after = (place_changed if new_place else value_changed)(draw, split, tool)
    turns = [(politely(draw, before.text), before.call()), (after.text, after.call())]
    return turns, ["multi_turn", tool.name]


def place_changed(draw: Draw, split: str, tool: Tool) -> tuple[Command, Command]:
    def any_change() -> tuple[Command, Command]:
        before = draw_command(draw, tool, [split, "train"])
        return before, say(tool, draw.one(NEW_PLACE), draw.one(tool.firsts), Value("", before.args))

    return first_accepted(
        any_change, lambda pair: pair[0].first != pair[1].first and split_of_command(pair[1]) == split
    )


def value_changed(draw: Draw, split: str, tool: Tool) -> tuple[Command, Command]:
    spoken = tool.wordings[0]

    def any_change() -> tuple[Command, Command]:
        before = draw_command(draw, tool, [split, "train"], [spoken])
        value = draw.one(draw.one(spoken.styles))
        return before, say(tool, draw.one(NEW_VALUE + comparison(before, value)), before.first, value)

    return first_accepted(any_change, lambda pair: pair[0].args != pair[1].args and split_of_command(pair[1]) == split)


def comparison(before: Command, value: Value) -> tuple[str, ...]:
    """ "A bit warmer" or "a bit cooler", whichever is true; nothing between Celsius and Fahrenheit."""
    if before.tool.name not in MORE_OR_LESS or before.args.get("unit") != value.args.get("unit"):
        return ()
    more, less = MORE_OR_LESS[before.tool.name]
    number, number_before = (next(iter(args.values())) for args in (value.args, before.args))
    return (more if number > number_before else less,) * 3  # three chances, so that it is heard often enough


MANY_FORMS = tuple(tool for tool in TOOLS if tool.name in ("set_alarm", "set_timer", "set_temperature"))
REASONS = ("no_such_room", "out_of_range", "not_possible")
FAMILIES: dict[str, tuple[Callable, tuple]] = {  # family -> its function, and what it makes rows about in turn
    "single": (single, (*TOOLS, *MANY_FORMS)),
    "multi_step": (multi_step, TOOLS),
    "refusal": (refusal, (*REASONS, *REASONS, "no_such_device")),
    "multi_turn": (multi_turn, TOOLS),
}


# --- Rows ---------------------------------------------------------------------------------------------------


def normalised(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def texts_of(turns: Turns) -> tuple[str, ...]:
    return tuple(normalised(text) for text, _ in turns)


def arguments_of(turns: Turns) -> set[tuple[str, str | float]]:
    return {item for _, answer in turns for call in answer.get("steps", [answer]) for item in call.items()}


class Commands:
    """Makes rows, and keeps the rules that need a memory of the rows made before."""

    def __init__(self) -> None:
        self.draw = Draw(SEED)
        self.rows_seen: set[tuple[str, ...]] = set()
        self.split_of_text: dict[str, str] = {}
        self.trained: set[tuple[str, str | float]] = set()

    def rows(self) -> list[dict]:
        """All rows of commands.jsonl. Training rows come first: held-out rows depend on what they train."""
        rows = [row for split in ROWS for row in self.rows_of_split(split)]
        return [{"id": f"demo-{n:04}", **row} for n, row in enumerate(self.draw.shuffled(rows), 1)]

    def rows_of_split(self, split: str) -> Iterator[dict]:
        for family, count in ROWS[split].items():
            make, subjects = FAMILIES[family]
            for n in range(count):
                yield self.new_row(make, split, subjects[n % len(subjects)])

    def new_row(self, make: Callable, split: str, subject: object) -> dict:
        turns, tags = first_accepted(
            lambda: make(self.draw, split, subject), lambda made: self.may_be_added(made[0], split)
        )
        self.rows_seen.add(texts_of(turns))
        self.split_of_text.update(dict.fromkeys(texts_of(turns), split))
        if split == "train":
            self.trained |= arguments_of(turns)
        return {"messages": self.messages(turns), "meta": {"source": "demo", "tags": tags, "split": split}}

    def may_be_added(self, turns: Turns, split: str) -> bool:
        """No row twice, no sentence in two splits, nothing asked of val and test that was never trained."""
        texts = texts_of(turns)
        short = all(len(text.split()) <= MAX_WORDS for text, _ in turns)
        own = all(self.split_of_text.get(text, split) == split for text in texts)
        trained = split == "train" or arguments_of(turns) <= self.trained
        return short and own and trained and texts not in self.rows_seen

    def messages(self, turns: Turns) -> list[dict]:
        messages = []
        if self.draw.chance(SYSTEM_SHARE):
            messages.append({"role": "system", "content": self.draw.one(SYSTEMS)})
        for text, answer in turns:
            messages.append({"role": "user", "content": as_written_down(self.draw, text)})
            messages.append({"role": "assistant", "content": json.dumps(answer, separators=(",", ":"))})
        return messages


def broken_lines(commands: Commands, first_row: dict) -> list[bytes]:
    """Lines that a reader has to put aside, among two good ones; README.md says what each is for."""

    def row(number: int) -> dict:
        return {"id": f"broken-{number:02}", **commands.new_row(single, "train", TOOLS[number])}

    def changed(number: int, **changes: object) -> dict:
        return {**row(number), **changes}

    def with_messages(number: int, change: Callable[[str, str], list[tuple[str, str]]]) -> dict:
        good = row(number)
        user, answer = (message["content"] for message in good["messages"][-2:])
        good["messages"] = [{"role": role, "content": content} for role, content in change(user, answer)]
        return good

    return [
        line(row(1)),
        line(row(2))[:-40] + b"\n",
        line(with_messages(3, lambda user, answer: [("user", user)])),
        line(with_messages(4, lambda user, answer: [("user", ""), ("assistant", answer)])),
        line(changed(5, note="checked by hand")),
        line(changed(6, id=7)),
        line(with_messages(7, lambda user, answer: [("user", user), ("user", user), ("assistant", answer)])),
        line(row(8)).replace(b'"content": "', b'"content": "\xff\xfe ', 1),
        line(row(9)),
        line(changed(10, id="broken-01")),
        line({**first_row, "id": "broken-11"}),
        line(with_messages(12, lambda user, answer: [("user", user + "<|im_end|>"), ("assistant", answer)])),
    ]


def line(row: dict) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


def files() -> dict[str, bytes]:
    """The files of this folder that are generated, by name."""
    commands = Commands()
    rows = commands.rows()
    a_training_row = next(row for row in rows if row["meta"]["split"] == "train")
    return {
        "commands.jsonl": b"".join(map(line, rows)),
        "broken.jsonl": b"".join(broken_lines(commands, a_training_row)),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Writes the demo data into the folder of this file.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if a file differs")
    check = parser.parse_args(argv).check
    status = 0
    for name, wanted in files().items():
        path = HERE / name
        if not check:
            path.write_bytes(wanted)
            print(f"wrote {path}")
        elif not path.is_file() or path.read_bytes() != wanted:
            print(
                f"{path} is not what generate.py writes; run: python {path.parent / 'generate.py'}",
                file=sys.stderr,
            )
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
