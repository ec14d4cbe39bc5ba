"""The objects that the embedded model draws: one plain word each, with its emoji and category.

A row maps a category to words; a word that differs from the data set's short name is written
``word=short_name``.  Chosen for shapes that still read at 64 pixels and for drawings that exist in
all three sets (Noto, Twemoji, Fluent 3D).  The list is frozen: its order is the order of the
classifier's outputs, so a change voids the shipped weights.
"""

from __future__ import annotations

_TABLE = {
    "animals": """
        cat dog mouse cow tiger rabbit horse pig wolf bear panda=panda_face koala
        lion=lion_face unicorn=unicorn_face fox=fox_face monkey=monkey_face frog elephant camel
        giraffe=giraffe_face zebra=zebra_face sheep
        crocodile snake turtle octopus fish=tropical_fish dolphin whale crab shark shrimp
        snail bee ladybug spider butterfly chicken chick=hatched_chick penguin owl eagle
        duck parrot flamingo""",
    "nature": """
        sprout=seedling tree=deciduous_tree palm=palm_tree cactus clover=four_leaf_clover mushroom
        tulip rose sunflower volcano rainbow sun=sun_with_face moon=crescent_moon star
        snowflake snowman=snowman_without_snow fire planet=ringed_planet""",
    "food": """
        corn eggplant avocado carrot broccoli tomato grapes watermelon lemon banana
        pineapple apple pear cherries strawberry kiwi=kiwifruit hotdog taco hamburger pizza fries
        popcorn croissant pancakes pretzel cheese=cheese_wedge doughnut cookie
        chocolate=chocolate_bar lollipop cake=birthday cupcake sushi beer coffee""",
    "travel": """
        bus ambulance taxi car truck tractor rocket helicopter airplane
        ufo=flying_saucer sailboat=boat anchor house castle=european_castle tent""",
    "activities": """
        balloon gift pumpkin=jack_o_lantern trophy medal=sports_medal basketball football soccer
        dart teddy=teddy_bear palette=art guitar trumpet drum=drum_with_drumsticks
        dice=game_die""",
    "objects": """
        crown glasses=eyeglasses shirt dress boot=hiking_boot ring gem headphones camera
        television=tv candle bulb hammer axe magnet gear bell mailbox=postbox lock key scissors
        pencil=pencil2 briefcase book=green_book computer battery clock=alarm_clock
        hourglass chair umbrella bomb shield""",
    "faces": """
        ghost alien robot=robot_face clown=clown_face skull devil=smiling_imp heart smile=smiley
       """,
}

OBJECTS: dict[str, str] = {}  # word -> category, in the classifier's order
SHORT_NAMES: dict[str, str] = {}  # word -> short name in the emoji data sets
for _category, _words in _TABLE.items():
    for _entry in _words.split():
        _word, _, _name = _entry.partition("=")
        OBJECTS[_word] = _category
        SHORT_NAMES[_word] = _name or _word
