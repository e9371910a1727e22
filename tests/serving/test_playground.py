"""The playground in a real Chromium, against a real server on small tables and a tiny model."""

import ast
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from trimtab import LM
from trimtab.policies.policy_file import PolicyFile
from trimtab.policies.toy import Table
from trimtab.rewards.reward import FunctionReward

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
ARGUMENTS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]

FILE = {
    "models": {"base": "plain", "guide": "kind"},
    "knobs": {"strength": {"default": 1.0, "min": 0.0, "max": 3.0}, "warmth": {"default": 0.0}},
    "policy": "base * (guide / base)^(strength + warmth)",
    "decoding": {"max_new_tokens": 24},
    "search": {"method": "chunk_beam", "value": "guide / base", "beams": 3, "branches": 2, "chunk": 4},
}
CHAT = "{% for message in messages %}{{ message.content }} {% endfor %}"


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Served:
    """A server in a thread, which can be stopped and started anew on the same port."""

    def __init__(self, file, load, *, reward=None, keys=None):
        self.file, self.load, self.reward, self.keys = PolicyFile.model_validate(file), load, reward, keys
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"

    def start(self):
        import uvicorn

        from trimtab.serving.app import build_app
        from trimtab.serving.keys import Keys
        from trimtab.serving.limits import Limits
        from trimtab.serving.menu import Menu
        from trimtab.serving.serve import local_service

        menu = Menu.load("kind", self.file, self.load, Limits(), vectors={})
        if self.reward is not None:
            menu = replace(menu, reward=self.reward.name)
        self.service = local_service(menu, self.reward)
        app = build_app(self.service, keys=self.keys or Keys(), hosts=None)
        config = uvicorn.Config(
            app, host="127.0.0.1", port=self.port, log_config=None, ws="none", timeout_graceful_shutdown=1
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        return self

    def stop(self):
        self.server.should_exit = self.server.force_exit = True
        self.thread.join()

    @property
    def connections(self):
        return len(self.server.server_state.connections)

    def post(self, path, body):
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as reply:
            return json.load(reply)


def table(source):
    return Table.random(12, seed={"plain": 1, "kind": 2}[source], name=source)


def count_t1(completions, **_):
    return [text.split().count("t1") / (1 + len(text.split())) for text in completions]


@pytest.fixture(scope="module")
def served():
    made = Served(FILE, lambda name: table(FILE["models"][name]), reward=FunctionReward(count_t1, "ones")).start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.exists():
        pytest.fail("there is no /usr/bin/chromium: apt-get install chromium, or set CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield made
        made.close()


@contextmanager
def opened(browser, *, refusals=False, **options):
    """Give a page of its own context, and see that its console stays silent."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    page = context.new_page()
    page.set_default_timeout(15_000)
    said = []
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(f"{error}"))
    yield page
    context.close()
    # Chromium itself writes down every request that is refused; only tests of refusals may see that.
    ours = [text for text in said if not (refusals and text.startswith("Failed to load resource"))]
    assert ours == []


@pytest.fixture
def page(browser):
    with opened(browser) as made:
        yield made


def visit(page, url, fragment=""):
    page.goto(url + fragment)
    page.wait_for_selector("html[data-ready]")


def settle(page, answers="#view-steer .answer"):
    page.wait_for_function(
        "where => { const all = [...document.querySelectorAll(where)];"
        " return all.length && all.every((each) => ['done', 'failed', 'stopped'].includes(each.dataset.state)) }",
        arg=answers,
    )


def ask(page, prompt="t1 t2"):
    page.fill("#prompt", prompt)
    page.click("#run")
    settle(page)


def answer_of(page, which):
    return page.locator(f"#{which}-answer .tokens").text_content()


def steer_to(page, value):
    """Move the slider as a hand does, and wait until the new answer is whole."""
    with page.expect_response(lambda reply: reply.url.endswith("/v1/completions")):
        page.locator("#knob-strength").fill(str(value))
    settle(page)


def test_both_answers_stream_and_tokens_have_colours(page, served):
    visit(page, served.url, "#seed=3")
    ask(page)
    base, steered = answer_of(page, "base"), answer_of(page, "steered")
    assert len(base.split()) == len(steered.split()) == 24
    assert base != steered
    sides = page.locator("#steered-answer .token").evaluate_all("all => all.map((each) => each.dataset.side)")
    assert {"more", "less"} <= set(sides)
    assert page.locator("#base-answer [data-side]").count() == 0
    assert re.search(r"24 tokens\s*\d\.\d\d nats a token", page.locator("#steered-foot").inner_text())
    assert page.locator("#steered-answer [data-fork]").count() == 1
    page.wait_for_selector("#chart circle.reward.steered")
    assert "ones" in page.locator("#chart svg").get_attribute("aria-label")


def test_a_slider_steers_anew_from_the_same_seed(page, served):
    visit(page, served.url, "#seed=3")
    ask(page)
    base, first = answer_of(page, "base"), answer_of(page, "steered")
    steer_to(page, 3)
    assert answer_of(page, "steered") != first
    assert page.locator(".knob input[type=number]").first.input_value() == "3"
    steer_to(page, 0)
    assert answer_of(page, "steered") == base  # at strength 0 the policy is its base
    page.get_by_role("button", name="Reset strength to 1").click()
    page.wait_for_timeout(400)
    settle(page)
    assert answer_of(page, "steered") == first
    assert answer_of(page, "base") == base


def test_what_changes_behind_another_view_is_asked_on_coming_back(page, served):
    visit(page, served.url, "#seed=3")
    ask(page)
    first = answer_of(page, "steered")
    page.click("#tab-export")
    page.locator("#knob-strength").fill("3")
    with page.expect_response(lambda reply: reply.url.endswith("/v1/completions")):
        page.click("#tab-steer")
    settle(page)
    assert answer_of(page, "steered") != first


def test_a_number_beyond_the_range_is_not_taken(page, served):
    visit(page, served.url)
    field = page.get_by_label("strength, number", exact=True)
    field.fill("9")
    assert field.get_attribute("aria-invalid") == "true"
    assert page.locator("#knob-strength").input_value() == "1"
    field.fill("2.25")
    assert page.locator("#knob-strength").input_value() == "2.25"
    open_field = page.get_by_label("warmth, number", exact=True)
    open_field.fill("7.5")  # an open range gives way
    assert page.locator("#knob-warmth").get_attribute("max") == "7.5"


def test_tokens_are_looked_at_by_pointer_and_keyboard(page, served):
    visit(page, served.url, "#seed=3")
    ask(page)
    tokens = page.locator("#steered-answer .token")
    tokens.nth(4).hover()
    glass = page.locator("#inspector")
    assert "token 5 of the steered answer" in glass.inner_text()
    rows = glass.locator("tbody tr")
    assert rows.count() >= 6
    assert glass.locator("tr.chosen").count() == 1
    heads = glass.locator("thead th").all_inner_texts()
    assert heads[0] == "Token" and heads[-1] == "Product" and len(heads) >= 5
    tokens.first.focus()
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    assert "token 3 of the steered answer" in glass.inner_text()
    page.keyboard.press("End")
    assert "token 24 of the steered answer" in glass.inner_text()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowLeft")  # at the edge it stays
    assert "token 1 of the steered answer" in glass.inner_text()
    stops = tokens.evaluate_all("all => all.filter((each) => each.tabIndex === 0).length")
    assert stops == 1


def test_what_runs_can_be_stopped(page, served):
    visit(page, served.url, "#max_tokens=4000")
    page.fill("#prompt", "t1")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#steered-answer .token")
    page.click("#stop")
    settle(page)
    assert page.locator("#steered-answer .answer").get_attribute("data-state") == "stopped"
    assert page.locator("#steered-answer .token").count() < 4000
    assert page.locator("#stop").is_disabled()
    wait_until(lambda: served.service.runner.open == 0)


def wait_until(true, seconds=10):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_tree_of_a_search(page, served):
    visit(page, served.url, "#seed=3&view=search")
    page.fill("#prompt", "t1 t2")
    page.click("#run")
    page.wait_for_selector(".chunk")
    chunks = page.locator(".chunk")
    best = page.locator('.chunk[data-state="best"]')
    assert chunks.count() > best.count() == 6  # 24 tokens in chunks of 4
    way = "".join(best.locator(".words").all_inner_texts()).replace(" ", "")
    assert page.locator(".found .tokens").inner_text().replace(" ", "") == "t1t2" + way
    assert page.locator(".board path.best").count() == 6
    best.first.focus()
    page.keyboard.press("ArrowRight")
    detail = page.locator(".chunk-detail").inner_text()
    assert "went on" in detail and re.search(r"Boundary\s+2", detail)
    page.select_option("#method", "best_of_n")
    assert page.locator("#beams").is_disabled() and page.locator("#chunk").is_disabled()
    assert page.locator("#search-stale").is_visible()


def test_five_strengths_side_by_side(page, served):
    visit(page, served.url, "#seed=3&view=compare")
    page.fill("#prompt", "t1 t2")
    page.click("#run")
    settle(page, "#compare-grid .answer")
    cells = page.locator(".cell:not(.overview)")
    assert cells.count() == 5
    values = [each.input_value() for each in page.locator(".cell header input").all()]
    assert values == ["0", "0.75", "1.5", "2.25", "3"]
    page.wait_for_function("() => document.querySelectorAll('.cell .figures dd').length === 10")
    costs = [float(cell.locator("dd").first.inner_text()) for cell in cells.all()]
    assert costs[0] == 0 and costs == sorted(costs) and costs[-1] > 0.1
    alone = cells.nth(2).locator(".tokens").text_content()
    assert "strength" in page.locator(".overview svg").get_attribute("aria-label")
    page.click("#tab-steer")
    page.locator("#knob-strength").fill("1.5")
    page.click("#run")
    settle(page)
    assert answer_of(page, "steered") == alone


def test_exports_say_what_the_page_does(page, served):
    visit(page, served.url, "#seed=3")
    ask(page)
    steer_to(page, 1.5)
    text = answer_of(page, "steered")
    page.click("#tab-export")
    file = PolicyFile.model_validate(yaml.safe_load(page.locator("#text-yaml").text_content()))
    assert file.knobs["strength"].default == 1.5
    assert file.policy == FILE["policy"] and file.decoding.max_new_tokens == 24
    program = ast.parse(page.locator("#text-python").text_content())
    call = next(
        node for node in ast.walk(program) if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("create")
    )
    asked = {each.arg: ast.literal_eval(each.value) for each in call.keywords}
    body = {**asked, **asked.pop("extra_body")}
    assert served.post("v1/completions", body)["choices"][0]["text"] == text
    assert body_of_curl(page) == {**asked, "trimtab": body["trimtab"]}
    page.check("#with-search")
    assert yaml.safe_load(page.locator("#text-yaml").text_content())["search"]["method"] == "chunk_beam"
    assert '"search"' in page.locator("#text-python").text_content()


def body_of_curl(page):
    words = shlex.split(page.locator("#text-curl").text_content().replace("\\\n", " "))
    return json.loads(words[words.index("-d") + 1])


def test_exports_keep_every_character(page, served):
    prompt = 'it\'s "t1" $HOME `x` \\n\nnext: #é\u2028😀\t{{}}'
    visit(page, served.url, "#view=export")
    page.fill("#prompt", prompt)
    assert body_of_curl(page)["prompt"] == prompt
    program = ast.parse(page.locator("#text-python").text_content())
    assert prompt in {node.value for node in ast.walk(program) if isinstance(node, ast.Constant)}


def test_the_exported_program_runs(page, served):
    pytest.importorskip("openai")
    visit(page, served.url, "#seed=3")
    ask(page)
    text = answer_of(page, "steered")
    page.click("#tab-export")
    program = page.locator("#text-python").text_content()
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == text + "\n"


def test_a_link_shows_the_same_again(browser, page, served):
    visit(page, served.url, "#seed=11")
    ask(page, "t3 t4")
    steer_to(page, 2.25)
    page.get_by_label("Temperature").fill("0.7")
    page.wait_for_timeout(500)
    settle(page)
    text = answer_of(page, "steered")
    link = page.url
    assert "knob.strength=2.25" in link and "temperature=0.7" in link
    with opened(browser) as other:
        other.goto(link)
        other.wait_for_selector("#steered-answer .token")
        settle(other)
        assert other.locator("#prompt").input_value() == "t3 t4"
        assert other.locator("#knob-strength").input_value() == "2.25"
        assert answer_of(other, "steered") == text


def test_a_broken_link_opens_a_working_page(page, served):
    visit(page, served.url, "#policy=none&view=nowhere&knob.strength=much&turns=[&compare=x,1&seed=&search.method=all")
    assert page.locator("#view-steer").is_visible()
    assert page.locator("#knob-strength").input_value() == "1"


def test_a_refusal_is_shown_in_the_servers_words(browser, served):
    with opened(browser, refusals=True) as page:
        visit(page, served.url)
        ask(page)
        page.click(".formula-fold summary")
        page.fill("#formula-field", "base * nobody^2")
        page.locator("#formula-field").blur()
        failure = page.locator("#steered-answer .failure")
        failure.wait_for()
        names = failure.locator("dt").all_inner_texts()
        assert names == ["Given", "Expected", "Try"]
        assert "nobody" in failure.inner_text()
        page.click("#formula-reset")
        page.wait_for_timeout(400)
        settle(page)
        assert failure.count() == 0


def test_texts_of_the_server_are_never_markup(page, served):
    hostile = "<img src=x onerror=alert(1)><b>bold</b>"
    body = {"model": "reference", "prompt": "t1", "max_tokens": 1, "trimtab": {"details": 2}}
    reply = served.post("v1/completions", body)
    token = {**reply["choices"][0]["trimtab"]["tokens"][0], "token": hostile}
    token["alternatives"] = [{**token["alternatives"][0], "token": hostile}]
    token["factors"] = {hostile: -1.0}
    token["alternatives"][0]["factors"] = {hostile: -1.0}
    choice = {"index": 0, "text": hostile, "finish_reason": "length", "trimtab": {"kl": 0.1, "tokens": [token]}}
    chunk = {**reply, "choices": [choice]}
    page.route(
        "**/v1/completions",
        lambda route: route.fulfill(
            content_type="text/event-stream", body=f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n"
        ),
    )
    visit(page, served.url)
    ask(page)
    assert answer_of(page, "steered") == hostile
    assert hostile in page.locator("#inspector").inner_text()
    assert page.locator("#stage img, #stage b").count() == 0


def test_an_error_in_the_middle_of_a_stream(browser, served):
    with opened(browser) as page:
        error = {"error": {"message": "given: a NaN\nexpected: numbers\ntry: less strength", "code": "EngineError"}}
        body = 'data: {"choices":[{"index":0,"text":" one"}]}\n\n' + f"data: {json.dumps(error)}\n\n"
        page.route("**/v1/completions", lambda route: route.fulfill(content_type="text/event-stream", body=body))
        visit(page, served.url)
        ask(page)
        assert answer_of(page, "steered") == " one"
        assert "less strength" in page.locator("#steered-answer .failure").inner_text()


def test_a_server_that_is_gone_and_comes_back(browser):
    served = Served(FILE, lambda name: table(FILE["models"][name])).start()
    with opened(browser, refusals=True) as page:
        visit(page, served.url, "#seed=3")
        ask(page)
        text = answer_of(page, "steered")
        served.stop()
        page.click("#run")
        settle(page)
        failure = page.locator("#steered-answer .failure")
        assert "The server is gone" in failure.inner_text()
        served.start()
        failure.get_by_role("button", name="Try again").click()
        page.wait_for_selector("#steered-answer .answer[data-state=done]")
        assert answer_of(page, "steered") == text
        served.stop()


def test_a_server_that_is_not_there_yet(browser, served):
    with opened(browser, refusals=True) as page:
        page.route("**/v1/policies", lambda route: route.abort("connectionrefused"))
        page.goto(served.url)
        failure = page.locator("#connection .failure")
        failure.wait_for()
        assert "The server is gone" in failure.inner_text()
        page.unroute("**/v1/policies")
        failure.get_by_role("button", name="Try again").click()
        page.wait_for_selector("html[data-ready]")
        assert page.locator("#connection").is_hidden()


def test_a_key_is_asked_for_and_kept_out_of_everything(browser):
    from trimtab.serving.keys import Keys

    secret = "sesame-open-sesame-open"
    served = Served(FILE, lambda name: table(FILE["models"][name]), keys=Keys.of([secret])).start()
    try:
        with opened(browser, refusals=True) as page:
            page.goto(served.url)
            page.wait_for_selector("#key-dialog[open]")
            page.fill("#key-field", "wrong")
            page.keyboard.press("Enter")
            page.wait_for_selector("#key-wrong:visible")
            page.fill("#key-field", secret)
            page.keyboard.press("Enter")
            page.wait_for_selector("html[data-ready]")
            ask(page)
            page.click("#tab-export")
            page.wait_for_timeout(300)
            assert secret not in page.content() and secret not in page.url
            assert "$TRIMTAB_KEY" in page.locator("#text-curl").text_content()
    finally:
        served.stop()


def test_a_chat_goes_on_with_the_steered_answer(browser, tiny_lm_folder, tmp_path):
    folder = tmp_path / "chatty"
    shutil.copytree(tiny_lm_folder, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": CHAT}))
    file = {**FILE, "models": {"base": str(folder), "guide": str(folder)}, "decoding": {"max_new_tokens": 6}}
    served = Served(file, lambda name: LM.load(folder)).start()
    try:
        with opened(browser) as page:
            visit(page, served.url, "#seed=5")
            page.click("label[for=mode-chat]")
            page.fill("#message", "w1 w2")
            page.keyboard.press("Enter")
            settle(page)
            first = answer_of(page, "steered")
            page.fill("#message", "w3")
            with page.expect_request(lambda request: request.url.endswith("/v1/chat/completions")) as asked:
                page.keyboard.press("Enter")
            settle(page)
            roles = [message["role"] for message in asked.value.post_data_json["messages"]]
            assert roles == ["user", "assistant", "user"]
            assert asked.value.post_data_json["messages"][1]["content"] == first.strip()
            assert page.locator("#turns li").count() == 3
    finally:
        served.stop()


def test_without_a_chat_format_there_is_no_chat(page, served):
    visit(page, served.url, "#mode=chat")
    assert page.locator("#mode-chat").is_disabled()
    assert page.locator("#no-chat").is_visible() and page.locator("#prompt").is_visible()


def test_a_narrow_screen_needs_no_scrolling_sideways(browser, served):
    with opened(browser, viewport={"width": 360, "height": 740}) as page:
        for view in ("steer", "compare", "search", "export"):
            visit(page, served.url, f"?{view}#seed=3&prompt=t1&view={view}")
            page.wait_for_timeout(600)
            assert page.evaluate("document.documentElement.scrollWidth") <= 360, view


def test_dark_by_the_system_and_by_hand(browser, served):
    ground = "getComputedStyle(document.body).backgroundColor"
    with opened(browser, color_scheme="dark") as page:
        visit(page, served.url)
        dark = page.evaluate(ground)
        page.click("#theme")  # light
        light = page.evaluate(ground)
        assert light != dark
        page.click("#theme")  # dark, said by hand
        assert page.evaluate(ground) == dark
        page.reload()
        page.wait_for_selector("html[data-ready]")
        assert page.locator("#theme").get_attribute("aria-label") == "Theme: dark"


def test_no_motion_for_those_who_want_none(browser, served):
    with opened(browser, reduced_motion="reduce") as page:
        visit(page, served.url)
        assert page.locator("#logo-tab").evaluate("each => getComputedStyle(each).transitionDuration") in ("0s", "0ms")


def test_every_control_has_a_name_and_every_view_its_landmarks(page, served):
    controls = {"button", "textbox", "slider", "spinbutton", "combobox", "radio", "tab", "checkbox", "option", "link"}
    session = page.context.new_cdp_session(page)
    for view in ("steer", "compare", "search", "export"):
        visit(page, served.url, f"?{view}#seed=3&prompt=t1&view={view}")
        page.wait_for_timeout(600)
        found = session.send("Accessibility.getFullAXTree")["nodes"]
        nodes = [
            (node["role"]["value"], node.get("name", {}).get("value", "")) for node in found if not node["ignored"]
        ]
        nameless = [node for node in nodes if node[0] in controls and not node[1].strip()]
        assert nameless == [], view
        roles = {role for role, _ in nodes}
        assert {"main", "banner", "tabpanel", "heading", "form"} <= roles, view


def test_two_hundred_moves_of_a_slider_leave_nothing_behind(page, served):
    visit(page, served.url, "#seed=3&max_tokens=2000&prompt=t1")
    page.wait_for_selector("#steered-answer .token")
    page.evaluate(
        """async () => {
          const slider = document.getElementById("knob-strength");
          for (let move = 0; move < 200; move += 1) {
            slider.value = (move % 31) / 10;
            slider.dispatchEvent(new Event("input", { bubbles: true }));
            await new Promise((resolve) => setTimeout(resolve, 160)); // longer than the page waits for
          }
        }"""
    )
    page.click("#stop")
    wait_until(lambda: served.service.runner.open == 0)
    wait_until(lambda: served.connections <= 8)
    assert page.evaluate("document.querySelectorAll('*').length") < 2 * 2000 + 1000


def test_events_are_read_wherever_the_network_cuts_them(page, served):
    visit(page, served.url)
    same = page.evaluate(
        """async () => {
          const { events } = await import("/playground/sse.js");
          const lines = ['data: {"a": "é漢😀"}\\r\\n\\r\\n: comment\\n', "data: one\\ndata: two\\n\\n"];
          const text = `${lines.join("")}event: x\\rdata:last\\r\\r`;
          const bytes = new TextEncoder().encode(text);
          const read = async (size) => {
            const pieces = [];
            for (let at = 0; at < bytes.length; at += size) pieces.push(bytes.slice(at, at + size));
            const found = [];
            for await (const data of events(new Response(new ReadableStream({
              start(out) { pieces.forEach((piece) => out.enqueue(piece)); out.close(); },
            })).body)) found.push(data);
            return JSON.stringify(found);
          };
          return Promise.all([1, 2, 3, 5, 7, 1000].map(read));
        }"""
    )
    assert set(same) == {'["{\\"a\\": \\"é漢😀\\"}","one\\ntwo","last"]'}


def test_the_page_has_no_script_or_style_of_its_own():
    from trimtab.serving.page import page_files

    html = page_files()["/"][0].decode()
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=|https?://", html)
    assert all(
        "innerHTML" not in content.decode() for path, (content, _) in page_files().items() if path.endswith(".js")
    )
