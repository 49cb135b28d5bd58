"""English sentences in groups that say the same in other words: short ones, middling ones, long ones.

A sentence encoder should find every sentence closer to those of its own group than to any other.
"""

GROUPS: tuple[tuple[str, ...], ...] = (
    # up to 16 tokens each
    (
        "The cat is asleep on the sofa.",
        "A cat sleeps on the couch.",
        "The kitten is napping on the settee.",
    ),
    (
        "How do I reset my password?",
        "I forgot my password, how can I change it?",
        "What must I do to get a new password?",
    ),
    (
        "It will rain tomorrow.",
        "Rain is expected tomorrow.",
        "Tomorrow is going to be a rainy day.",
    ),
    (
        "The train was late again.",
        "Once more the train did not arrive on time.",
        "Our train had a delay yet again.",
    ),
    (
        "She plays the violin very well.",
        "She is an excellent violinist.",
        "Her violin playing is superb.",
    ),
    (
        "Where is the nearest pharmacy?",
        "Is there a chemist close to here?",
        "How do I get to the closest drugstore?",
    ),
    (
        "The soup needs more salt.",
        "This soup is not salty enough.",
        "You should add some salt to the soup.",
    ),
    (
        "The company hired fifty engineers.",
        "Fifty engineers were taken on by the firm.",
        "The business employed 50 new engineers.",
    ),
    # 17 to 32 tokens
    (
        "After three hours of climbing, the hikers finally reached the top of the mountain and ate their lunch there.",
        "The walkers got to the summit of the mountain after a climb of three hours, and had lunch on it.",
        "It took the hikers three hours to climb to the peak, where they sat down and ate.",
    ),
    (
        "The doctor told him to drink less coffee and to sleep at least eight hours every night.",
        "His physician advised him to cut down on coffee and to get eight hours of sleep or more.",
        "On medical advice he should have fewer cups of coffee and spend eight hours a night asleep.",
    ),
    (
        "Prices of houses in the capital have risen by a tenth within a year, according to the bank's report.",
        "The bank reports that homes in the capital became ten percent more expensive over the past year.",
        "A year ago houses in the capital cost about ten percent less, the report of the bank says.",
    ),
    (
        "The new telescope has taken pictures of galaxies that formed shortly after the beginning of the universe.",
        "Galaxies born soon after the universe began can be seen in images made by the new telescope.",
        "With the new telescope, astronomers photographed some of the very first galaxies in the universe.",
    ),
    (
        "Bake the bread for forty minutes in a hot oven, until its crust is brown and sounds hollow when tapped.",
        "The loaf should stay in the hot oven for forty minutes, until the crust is brown and it sounds hollow.",
        "Leave the bread in a hot oven for forty minutes; it is done when the crust has browned.",
    ),
    (
        "The goalkeeper saved two penalties, and so the visitors won the football match in the last minute.",
        "Thanks to their goalkeeper, who stopped two penalty kicks, the away team won the football game at the end.",
        "Two penalties saved by the keeper gave the visiting football team a win in the final minute.",
    ),
    # 33 to 64 tokens
    (
        (
            "The museum will be closed from Monday until the end of the month, because the roof over the main hall has "
            "to be repaired before winter; tickets that were already bought may be used later or returned for a full "
            "refund."
        ),
        (
            "Because its main hall needs repairs to the roof before the winter, the museum stays shut from Monday to "
            "the end of this month, and visitors who hold tickets can either come later or have their money back."
        ),
        (
            "From Monday on nobody can visit the museum for the rest of the month, since workers will mend the roof of "
            "the main hall; whoever has a ticket already can get a refund for it or use it at another time."
        ),
    ),
    (
        (
            "When the two database servers lost contact with each other for a few seconds, both believed that they "
            "were in charge and accepted orders, so that some customers were charged twice until an engineer noticed "
            "it."
        ),
        (
            "A short break in the connection between two database servers made each of them act as the leader, and for "
            "a while some customers paid twice for their orders, before an engineer found the mistake."
        ),
        (
            "For some seconds the servers of the database could not reach each other, and since each took orders as if "
            "it were the only one, several customers had to pay two times, which an engineer later discovered."
        ),
    ),
    (
        (
            "My grandmother kept bees behind her house for more than thirty years, and every summer she gave each of "
            "her neighbours a jar of honey, to make up for the few of them that had been stung."
        ),
        (
            "For over three decades my grandmother had beehives at the back of her home, and in summer all the people "
            "next door got a jar of her honey as an apology for the occasional sting."
        ),
        (
            "Behind the house where my grandmother lived there were beehives for thirty years or more, and she used to "
            "hand out honey to the neighbours each summer, since her bees sometimes stung them."
        ),
    ),
    # 65 tokens and more
    (
        (
            "The city council decided last night, after a debate that lasted until midnight, to close the street along "
            "the river to cars during the summer months, so that people can walk, ride bicycles and sit in cafes "
            "there. Owners of shops had feared that they would lose customers, but a trial in the year before had "
            "shown that more people came, and that most of them stayed longer and spent more than those who used to "
            "arrive by car."
        ),
        (
            "Cars will not be allowed on the riverside street in summer any more: that is what the council of the city "
            "agreed on after debating until midnight yesterday. The space will belong to walkers, cyclists and the "
            "guests of cafes. Shopkeepers were afraid of losing business, but when the idea was tried out one year "
            "ago, there were more visitors than before, they remained for longer, and they left more money in the "
            "shops."
        ),
        (
            "Late last night the councillors of the city voted to keep the road by the river free of cars through the "
            "summer and to leave it to pedestrians, bicycles and tables of cafes. A test during the previous year had "
            "calmed the worries of those who own shops there, because the number of visitors grew, and they stayed and "
            "bought more than people who had come in their cars."
        ),
    ),
    (
        (
            "Before you start the machine for the first time, make sure that the tank is filled with clean water, that "
            "the filter sits firmly in its place, and that the lid is shut; then press the green button for three "
            "seconds and wait until the lamp stops blinking. If the lamp turns red instead, pull out the plug, empty "
            "the tank, clean the filter under running water, and begin once more."
        ),
        (
            "For the first use, fill the tank of the machine with fresh water, check that its filter is fixed and the "
            "lid closed, and hold the green button for three seconds until the lamp no longer blinks. Should a red "
            "light show, disconnect the machine, pour the water away, rinse the filter under the tap, and repeat these "
            "steps."
        ),
        (
            "Starting the machine takes four steps: put clean water into the tank, see to it that the filter is firmly "
            "in place, close the lid, and keep the green button pressed for three seconds; the lamp will blink for a "
            "while. When the lamp becomes red, unplug the machine, empty its tank, wash the filter and try again."
        ),
    ),
)
