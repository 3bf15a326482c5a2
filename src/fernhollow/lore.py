"""Who and what there is in Fernhollow: the tables everything else is written from."""

from __future__ import annotations

from typing import NamedTuple


def _list(text: str, separator: str | None = None) -> tuple[str, ...]:
    return tuple(text.split(separator))


def _pair(text: str) -> tuple[str, str]:
    left, _, right = text.partition("-")
    return left, right


VILLAGE = "Fernhollow"
BOT = "Pip"

WOMEN = _list("Mira Lumi Tova Elsie Nell Runa Petra Ada Cleo Hazel Ivy Juno Poppy Sage")
MEN = _list("Tobin Oskar Bram Finn Gus Hugo Ivo Jasper Kit Ludo Milo Ned Otto Rufus")
PEOPLE = WOMEN + MEN

JOBS = _list(
    "baker miller smith weaver potter fisher gardener beekeeper carpenter shepherd teacher doctor painter tailor "
    "clockmaker candlemaker shoemaker woodcutter musician librarian ferryman innkeeper hunter astronomer mapmaker "
    "juggler postman brewer"
)
FOODS = _list(
    "plum cake,pea soup,honey bread,apple pie,fried fish,cheese rolls,nut pudding,berry jam,corn porridge,egg noodles,"
    "pumpkin stew,cream buns,lemon tart,rice balls",
    ",",
)
COLOURS = _list("red blue green yellow purple orange white black brown pink silver golden")
PETS = _list("cat dog rabbit goat owl frog mouse parrot turtle duck")
PET_NAMES = _list(
    "Biscuit Button Clover Dot Ember Fig Ginger Hops Inky Jelly Kettle Lark Muffin Nib Olive Pebble Quill Rusty Sock "
    "Tansy Umber Velvet Waffle Yarrow Zigzag Acorn Bramble Comet"
)


class Place(NamedTuple):
    """Where it lies from the village square, and what one finds there."""

    way: str
    sight: str


PLACES = {
    "mill": Place("north", "water wheel"),
    "harbour": Place("south", "old boat"),
    "orchard": Place("east", "apple ladder"),
    "forest": Place("west", "mossy log"),
    "bridge": Place("north", "stone arch"),
    "bakery": Place("east", "brick oven"),
    "library": Place("west", "tall shelf"),
    "lighthouse": Place("south", "great lamp"),
    "meadow": Place("north", "wooden gate"),
    "market": Place("east", "striped tent"),
    "cave": Place("west", "crystal wall"),
    "pond": Place("south", "reed bed"),
    "tower": Place("north", "bronze bell"),
    "garden": Place("east", "rose hedge"),
    "inn": Place("west", "warm hearth"),
    "hill": Place("south", "lonely bench"),
}


class Animal(NamedTuple):
    """What everybody in the village knows about an animal."""

    group: str
    legs: str
    colour: str
    food: str
    home: str
    sound: str


ANIMALS = {
    "cat": Animal("mammal", "four", "grey", "mice", "house", "meow"),
    "dog": Animal("mammal", "four", "brown", "bones", "kennel", "woof"),
    "cow": Animal("mammal", "four", "white", "grass", "barn", "moo"),
    "horse": Animal("mammal", "four", "black", "oats", "stable", "neigh"),
    "sheep": Animal("mammal", "four", "white", "clover", "fold", "baa"),
    "goat": Animal("mammal", "four", "grey", "thistles", "hill", "bleat"),
    "fox": Animal("mammal", "four", "red", "eggs", "den", "yip"),
    "wolf": Animal("mammal", "four", "grey", "meat", "forest", "howl"),
    "bear": Animal("mammal", "four", "brown", "honey", "cave", "growl"),
    "mouse": Animal("mammal", "four", "grey", "cheese", "hole", "squeak"),
    "rabbit": Animal("mammal", "four", "white", "carrots", "burrow", "thump"),
    "bat": Animal("mammal", "two", "black", "moths", "tower", "click"),
    "duck": Animal("bird", "two", "green", "weeds", "pond", "quack"),
    "owl": Animal("bird", "two", "brown", "voles", "hollow oak", "hoot"),
    "crow": Animal("bird", "two", "black", "corn", "nest", "caw"),
    "hen": Animal("bird", "two", "red", "seeds", "coop", "cluck"),
    "parrot": Animal("bird", "two", "blue", "nuts", "cage", "squawk"),
    "frog": Animal("amphibian", "four", "green", "flies", "reed bed", "croak"),
    "turtle": Animal("reptile", "four", "green", "lettuce", "shell", "hiss"),
    "snake": Animal("reptile", "no", "yellow", "beetles", "rocks", "rattle"),
    "bee": Animal("insect", "six", "golden", "nectar", "hive", "buzz"),
    "ant": Animal("insect", "six", "black", "crumbs", "anthill", "tick"),
    "spider": Animal("arachnid", "eight", "black", "gnats", "web", "rustle"),
    "trout": Animal("fish", "no", "silver", "worms", "river", "splash"),
}


class Thing(NamedTuple):
    """What an object is made of, and what for."""

    material: str
    use: str


OBJECTS = {
    "lantern": Thing("tin", "lighting the path"),
    "kettle": Thing("copper", "boiling water"),
    "basket": Thing("willow", "carrying fruit"),
    "rope": Thing("hemp", "climbing"),
    "ladder": Thing("oak", "reaching high places"),
    "key": Thing("iron", "opening doors"),
    "drum": Thing("goatskin", "keeping time"),
    "flute": Thing("bone", "playing songs"),
    "kite": Thing("paper", "flying in the wind"),
    "map": Thing("parchment", "finding the way"),
    "bell": Thing("bronze", "calling people"),
    "cloak": Thing("wool", "keeping warm"),
    "saddle": Thing("leather", "riding"),
    "mirror": Thing("glass", "seeing yourself"),
    "spoon": Thing("maple", "stirring soup"),
    "hammer": Thing("steel", "driving nails"),
    "compass": Thing("brass", "pointing north"),
    "candle": Thing("wax", "reading at night"),
    "umbrella": Thing("silk", "staying dry"),
    "whistle": Thing("clay", "calling the dog"),
    "shovel": Thing("ash wood", "digging holes"),
    "net": Thing("string", "catching fish"),
    "pillow": Thing("feathers", "sleeping well"),
    "broom": Thing("straw", "sweeping floors"),
}

OPPOSITES: dict[str, str] = dict(
    _pair(pair)
    for pair in _list(
        "hot-cold big-small fast-slow happy-sad day-night up-down wet-dry loud-quiet old-young hard-soft light-dark "
        "full-empty open-closed early-late near-far thick-thin rich-poor sweet-sour left-right brave-timid"
    )
)
DAYS = _list("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = _list("January February March April May June July August September October November December")
RHYMES = tuple(
    _list(line)
    for line in _list(
        "cat hat mat bat,bee tree sea key,mouse house,owl towel growl,frog log dog fog,goat boat coat oat,hen pen den ten,"
        "bear chair pear stair,fox box socks clocks,moon spoon tune noon,light night kite sight,cake lake snake rake,"
        "bell well shell smell,rain train lane chain",
        ",",
    )
)
GOODS = _list("apples plums nuts eggs coins shells candles stones buttons fish pears cakes books flowers beads kites")
