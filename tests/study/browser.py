"""What tests in a browser do and see on the page of a study."""

from __future__ import annotations

import re
import shutil

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


def letters(page):
    """Letter -> name of the picture, of what is shown."""
    cards = page.locator(".card")
    return {chr(65 + n): cards.nth(n).get_attribute("data-name") for n in range(cards.count())}


def order(page):
    """The groups in the list, by letters."""
    return [re.sub(r"[^A-Z]", "", group) for group in page.locator("#places li.filled").all_inner_texts()]


def saved(page):
    page.locator("#saved", has_text="Saved").wait_for()


def count(page):
    return page.inner_text("#count")


def drag(page, start, end, share=0.5):
    """With the mouse, from the middle of one element to a place in another: ``share`` of its width."""
    box, to = page.locator(start).first.bounding_box(), page.locator(end).first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(to["x"] + to["width"] * share, to["y"] + to["height"] / 2, steps=6)
    page.mouse.up()


def thumb(letter):
    return f".thumb:has(span:text-is('{letter}'))"


def card(letter):
    return f".card:has(.letter:text-is('{letter}'))"


def answer_all(page, steps):
    """Answer what is left, pictures in the order of their letters; checks as they ask."""
    for _ in range(steps):
        number = re.search(r"with the number (\d+)", page.inner_text("#prompt"))
        names = list(letters(page))
        if number:
            names.sort(key=lambda letter: not is_number(page, letter, int(number[1])))
        for letter in names:
            page.keyboard.press(letter.lower())
        before = count(page)
        page.keyboard.press("Enter")
        page.locator(f"#count:not(:text-is('{before}'))").wait_for()


def is_number(page, letter, number):
    return letters(page)[letter] == page.study.item(page.study_items[page.inner_text("#prompt")]).pictures[number - 1]


def know(page, study):
    """Let ``answer_all`` know which picture of a check has which number."""
    page.study, page.study_items = study, {item.prompt: item.id for item in study.items}
    return page


def touch_drag(page, start, end, share):
    """With a finger, as the browser reports it."""
    box, to = page.locator(start).bounding_box(), page.locator(end).bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    goal = to["x"] + to["width"] * share - 8
    session = page.context.new_cdp_session(page)

    def touch(kind, *points):
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": a, "y": b} for a, b in points]})

    touch("touchStart", (x, y))
    for step in range(1, 7):
        touch("touchMove", (x + (goal - x) * step / 6, y))
    touch("touchEnd")


def contrast(one, other):
    """WCAG's contrast ratio of two colours."""

    def luminance(colour):
        channels = [int(number) / 255 for number in re.findall(r"\d+", colour)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
