"""The wording shared by all topics of the demo corpus: how questions are asked and how answers sound.

Only words live here; `corpus.py` draws from them and `topics.txt` holds what each topic is about.
Slots: `{goal}` and `{problem}` in questions, `{noun}` (a gerund such as "baking bread") and `{tip}` in answers.
A slot written with a capital, `{Tip}`, is filled with the same words starting with a capital.
"""

GOAL_QUESTIONS = (
    "How do I {goal}?",
    "How can I {goal}?",
    "What is the best way to {goal}?",
    "Any tips to help me {goal}?",
    "I would like to {goal}. Where do I start?",
    "Can you tell me how to {goal}?",
    "I need to {goal}. Any advice?",
    "Please help me {goal}.",
    "I have never managed to {goal}. What should I try?",
)
PROBLEM_QUESTIONS = (
    "{problem}. What can I do?",
    "{problem}. Any ideas?",
    "Help! {problem}.",
    "{problem}. What would you suggest?",
    "Hi! {problem}. Can you help?",
    "{problem}. Where do I start?",
    "{problem}. What am I doing wrong?",
)
FOLLOW_UPS = (
    "And if that does not help?",
    "Thanks. What else could I try?",
    "I tried that already. What now?",
    "Is there anything else I should know?",
    "Good to know. Anything more?",
    "Hm, that sounds hard. Is there another way?",
)

# Said before the advice, when the answer does not come first.
OPENERS: dict[str, tuple[str, ...]] = {
    "warm": (
        "Oh, I know that feeling!",
        "Oh, you are not alone with this, I promise.",
        "Oh, what a lovely thing to ask!",
        "Oh, I am so glad you asked.",
        "Oh, take a deep breath, we will sort this out together.",
        "Oh, thank you for asking, this is close to my heart.",
        "Oh, well done for looking after this!",
        "Oh, don't worry, this happens to the best of us.",
    ),
    "neutral": (
        "There are a few things to know here.",
        "This is a common question.",
        "Here is a short overview.",
        "Let us look at this step by step.",
        "There is more than one way to go about it.",
        "The usual advice is quite simple.",
    ),
    "brisk": (
        "Right, straight to it.",
        "Right, this is easy.",
        "Right, no magic needed.",
        "Right, this is quickly solved.",
        "Right, here is the plan.",
    ),
}
PREAMBLES: dict[str, tuple[str, ...]] = {
    "warm": (
        "{Noun} can feel daunting, and yet it gets easier sooner than you think.",
        "Nobody is born knowing about {noun}, so please be patient with yourself.",
        "With {noun}, small and friendly steps go a long way.",
        "I have a soft spot for {noun}, so this makes me smile.",
    ),
    "neutral": (
        "When it comes to {noun}, small things matter most.",
        "{Noun} is mostly a matter of habit and patience.",
        "People have thought about {noun} for a long time, and some rules have lasted.",
        "{Noun} looks simple, but a few details decide how it goes.",
    ),
    "brisk": (
        "{Noun} is not rocket science.",
        "Most people overthink {noun}.",
        "With {noun}, the basics do the job.",
        "{Noun} has a few rules, and they work.",
    ),
}
SECOND_OPENERS: dict[str, tuple[str, ...]] = {
    "warm": ("Of course, there is always another way!", "Don't give up, you are doing fine!"),
    "neutral": ("In that case, there is more to try.", "There are other options."),
    "brisk": ("Then on to plan B.", "Fine, next idea."),
}
LIST_INTROS: dict[str, tuple[str, ...]] = {
    "warm": (
        "Here are some gentle ideas for you:",
        "These have made many people happier with {noun}:",
        "Let me share what I love to recommend:",
    ),
    "neutral": (
        "Here is what helps with {noun}:",
        "The main points are these:",
        "These steps are a good start:",
    ),
    "brisk": ("Do this:", "Your list:", "The rules for {noun}:"),
}

# A sentence around a tip. The first of an answer comes from LEADS, later ones also from NEXT_LEADS.
LEADS: dict[str, tuple[str, ...]] = {
    "warm": (
        "You could {tip}",
        "It really helps to {tip}",
        "I would gently suggest that you {tip}",
        "Be kind to yourself and {tip}",
        "Why not simply {tip}",
    ),
    "neutral": (
        "{Tip}",
        "It helps to {tip}",
        "A good step is to {tip}",
        "It makes sense to {tip}",
        "The usual way is to {tip}",
    ),
    "brisk": ("{Tip}", "Just {tip}", "Always {tip}", "The trick is to {tip}", "Go and {tip}"),
}
NEXT_LEADS: dict[str, tuple[str, ...]] = {
    "warm": ("It is also lovely to {tip}", "And if you like, {tip}", "You might also enjoy it if you {tip}"),
    "neutral": ("Also, {tip}", "Next, {tip}", "Another good idea is to {tip}"),
    "brisk": ("Then {tip}", "Next, {tip}", "And {tip}"),
}
HEDGED_LEADS = (
    "It may help to {tip}",
    "Perhaps you could {tip}",
    "You might want to {tip}",
    "In many cases it is worth trying to {tip}",
)
# How the reason follows the advice in prose, and in a list item.
REASONS = ("{lead}, because {why}.", "{lead}; {why}.", "{lead}, since {why}.", "{lead}. {Why}.")
ITEM_REASONS = ("{Tip}, because {why}.", "{Tip}; {why}.", "**{Tip}**: {why}.", "**{Tip}.** {Why}.")

HEDGES = (
    "It may depend on your situation, of course.",
    "This does not work for everyone.",
    "I cannot be sure without knowing more.",
    "Results vary, so treat this as a starting point.",
    "I might be missing something, so please use your own judgement.",
    "If it does not get better, it is probably worth asking someone who has done it before.",
)
CLOSERS: dict[str, tuple[str, ...]] = {
    "warm": (
        "You have got this!",
        "I am cheering for you!",
        "Be proud of every small step.",
        "I hope this makes your day a little easier!",
        "Good luck, and be gentle with yourself!",
        "You will be surprised how soon it feels natural.",
    ),
    "neutral": (
        "That covers most of it.",
        "With a little practice it becomes routine.",
        "Start with one of these and see how it goes.",
        "That is usually enough.",
    ),
    "brisk": ("That is all.", "Done.", "Start today.", "Now go."),
}
# Asking back: about the reader's situation, before or after the advice, or what to do next, after it.
ASKING_FIRST: dict[str, tuple[str, ...]] = {
    "warm": ("Tell me a little more, if you like:", "Tell me first, so that I can really help you:"),
    "neutral": ("Tell me one thing first:",),
    "brisk": ("Tell me first:",),
}
ASKING_LAST = ("Tell me:", "Tell me, too:")
QUESTIONS = (
    "What have you tried so far?",
    "Is this new to you?",
)
OFFERS = (
    "Which of these would you like to try first?",
    "Shall I go into more detail?",
    "Does that fit your situation?",
)
