"""Sentences nano does not know: they teach it when to say that it did not understand.

Near misses share most of their words with a known prompt; the rest are plain
English. `other(split)` is deterministic; the two splits share no sentence.
"""

import itertools
import random

from common import exchanges

NEAR = {
    "what is the capital of {}": "Spain|Germany|Brazil|Canada|Egypt|Norway|Poland|Peru|Texas|China|India|Greece",
    "what's the capital of {}": "Sweden|Portugal|Mexico|Kenya|Russia|Ireland",
    "count to {}": "twenty|five|one hundred|three|a thousand|twelve",
    "what sound does a {} make": "cow|horse|pig|duck|lion|train|bird|sheep",
    "what does a {} say": "sheep|rooster|frog|baby|lawyer",
    "what color is {}": "the car|my house|a tomato|snow|the grass|the wall|an orange|coal",
    "how many {}": "months are in a year|hours are in a day|legs has a spider|people live here|cups do I need",
    "what is {}": "five plus five|nine minus one|six times seven|two plus three|your address|your phone number|the matter|a parachute|for dinner|this",
    "who {}": "wrote Macbeth|painted this|is the president|won the game|are you looking for|let the dogs out",
    "where do {} live": "birds|bears|your parents|penguins|they",
    "what do {} make": "spiders|bakers|cows|you",
    "{} the door": "close|lock|paint|knock on",
    "turn off the {}": "light|oven|television|engine",
    "play some {}": "football|cards|games|chess",
    "do you like {}": "coffee|swimming|the beach|my hat|chocolate|movies",
    "are you {}": "hungry|a doctor|coming tonight|asleep|married|from London",
    "what is your {}": "favorite book|age|problem|favorite song|plan for tomorrow",
    "tell me {}": "a story|the news|about your day|the truth|where you were",
    "can you {}": "see me|swim|drive a car|call my brother|lend me ten dollars",
    "how {}": "old are you|far is London|tall is the tower|is your mother|much is a ticket|do planes fly",
    "happy {}": "new year|anniversary|Easter|to see you",
    "I {} you": "hate|know|called|missed|will pay",
    "good {}": "afternoon|luck|job|heavens|idea",
    "which {}": "planet has rings|river is the longest|bus goes downtown|shirt is yours",
    "please {}": "sit down|be careful|come in|wait for me|send the letter",
    "hello {}": "kitty|world|my old friend|mister president",
    "testing {}": "the new engine|is boring",
    "sing {}": "in the choir|louder",
}

PLAIN = """the train leaves at half past nine
my sister bought a green bicycle
we walked along the river until sunset
he forgot his keys on the kitchen table
the soup needs a little more salt
nobody answered the telephone yesterday
they painted the fence last summer
a storm is coming from the west
I would like a cup of black tea
the library closes early on Sunday
her brother works at the harbor
put the boxes next to the window
it rained for three days without a break
the old man fed the pigeons
this road goes all the way to the coast
we should buy some bread and cheese
the children are playing in the garden
my shoes are full of sand
he speaks very slowly and clearly
the movie was longer than I expected
there is a spider on the ceiling
she wants to become a pilot
you forgot to water the plants
the market opens before dawn
his coat was thrown over the chair
a small boat crossed the lake
it is too cold to go outside
the battery is almost empty
let us meet near the station
the glass fell off the shelf
could somebody bring me a towel
our neighbors have a very loud parrot
the museum is closed for repairs
I have lost my umbrella again
the bridge was built a century ago
please remember to lock the gate
the bakery smells wonderful in the morning
my grandfather was a carpenter
the mountain is covered with snow
they sell apples and pears
her voice sounded tired
we are running out of time
the doctor will see you now
the cat is sleeping on my laptop
take the second street on the left
I never learned how to whistle
the ship sank in deep water
he opened a small shop in town
the engine makes a strange noise
seven birds sat on a wire
maybe tomorrow
not really
I don't think so
of course
yes
no
what
okay
wait a minute
excuse me
never mind
that's funny
look at that
where are we
who is there
come here
go away
stop it
listen to me
I am tired
see you tomorrow
nice to meet you
what happened
are you ready
I am not sure
give me the book
how come
why not
the end
left or right
black and white
Monday Tuesday Wednesday
one hundred and twenty seven
four five six
eleven twelve thirteen
zero point five
blue
banana
robot
music
weather
France
Paris is lovely in spring
cats and dogs do not get along
the moon is bright tonight
bees are flying around the flowers
my name is Peter
the sky looks grey today
I bought pizza for everybody
an elephant never forgets
the ocean is cold in winter
the light in the hall is broken
she wrote a letter to Hamlet Street
we heard music from the street
the clock stopped at noon
the robot vacuum is stuck
quiet streets make me nervous
birthday parties are expensive
help yourself to some cake
the song was number one
the door is open
it was a joke""".split("\n")

_SUBJECT = "the teacher|a young woman|my neighbor|the old dog|our captain|the farmer|that boy|his uncle|the tall nurse|a stranger|the mayor|your cousin|the driver|a police officer|the queen".split(
    "|"
)
_VERB = "carried|found|watched|broke|sold|painted|borrowed|washed|followed|dropped|measured|burned|chased|hid|fixed".split("|")
_OBJECT = "the red basket|two heavy bags|a wooden ladder|the broken radio|some fresh fish|her yellow jacket|the garden hose|an enormous pumpkin|the last ticket|a silver spoon|his brand new truck|the village map|many strange letters|a bottle of juice|the front wheel".split(
    "|"
)
_END = "|yesterday|in the rain|before lunch|near the church|with great care|last week|behind the school|at midnight|for no reason".split(
    "|"
)


def other(split):
    """Unknown sentences, as (text, is_near_miss) pairs; split is 'train' or 'heldout'."""
    rng = random.Random(7)
    known = {p.lower() for e in exchanges()["exchanges"] for p in e["prompts"]}
    near = [(t.format(w), True) for t, ws in NEAR.items() for w in ws.split("|")]
    plain = [(t, False) for t in PLAIN]
    grammar = [(" ".join(x).strip(), False) for x in itertools.product(_SUBJECT, _VERB, _OBJECT, _END)]
    for some in (near, plain, grammar):
        rng.shuffle(some)
    near = [x for x in near if x[0].lower() not in known]
    if split == "heldout":
        return near[:16] + plain[:14] + grammar[:10]
    return near[16:] + plain[14:] + grammar[10:330]


def salad(rng):
    """An endless supply of things nano does not know: words in no order, and known
    prompts that go wrong after their first words."""
    prompts = [p for e in exchanges()["exchanges"] for p in e["prompts"]]
    taken = {p.lower() for p in prompts} | {t.lower() for t, _ in other("heldout")}
    lines = [t for t, _ in other("train")]
    words = sorted({w for t in lines + prompts for w in t.split()})
    while True:
        kind = rng.random()
        if kind < 0.4:  # begins like a prompt
            p = rng.choice(prompts).split()
            text = p[: rng.randint(1, max(1, len(p) - 1))] + rng.choices(words, k=rng.randint(1, 3))
        elif kind < 0.6:  # ends like one
            p = rng.choice(prompts).split()
            text = rng.choices(words, k=rng.randint(1, 3)) + p[-rng.randint(1, max(1, len(p) - 1)) :]
        elif kind < 0.8:  # pieces of two sentences
            a, b = rng.choice(lines).split(), rng.choice(lines).split()
            text = a[: rng.randint(1, 4)] + b[-rng.randint(1, 4) :]
        else:
            text = rng.choices(words, k=rng.randint(1, 6))
        text = " ".join(text)
        if text.lower() not in taken and not any(text.lower().endswith(" " + p) for p in taken):
            yield text
