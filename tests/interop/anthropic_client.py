# mypy: ignore-errors
"""Run by the SDK's own Python: the conversations that its arguments name; results by name, as JSON on standard output.

An argument is ``NAME`` or ``NAME:DETAIL``.

Environment: ``ANTHROPIC_BASE_URL``, and ``ANTHROPIC_API_KEY`` or ``ANTHROPIC_AUTH_TOKEN``.
"""

import asyncio
import json
import sys

import anthropic

MODEL = "claude-opus-5"
TOOLS = [{"name": "shout", "description": "Says it loudly", "input_schema": {"type": "object"}}]


def ask(prompt: str) -> dict:
    """Arguments of a request."""
    return {"model": MODEL, "max_tokens": 200, "messages": [{"role": "user", "content": prompt}]}


def create(client) -> dict:
    """A whole message."""
    message = client.messages.create(**ask("[[say:whole – 日本語]]"))  # noqa: RUF001
    return {"text": message.content[0].text, "usage": message.usage.to_dict(), "stop": message.stop_reason}


def stream(client) -> dict:
    """The same through the stream helper."""
    with client.messages.stream(**ask("[[say:one two three 🙂]] [[simulate:pieces]]")) as events:
        deltas = list(events.text_stream)
        message = events.get_final_message()
    return {
        "text": message.content[0].text,
        "deltas": "".join(deltas),
        "output": message.usage.output_tokens,
        "stop": message.stop_reason,
    }


def tools(client) -> dict:
    """A tool call and its result."""
    request = ask('[[tool:shout:{"what":"hello"}]]')
    first = client.messages.create(**request, tools=TOOLS)
    call = first.content[-1]
    request["messages"] += [
        {"role": "assistant", "content": first.to_dict()["content"]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "HELLO"}]},
    ]
    second = client.messages.create(**request, tools=TOOLS)
    return {"call": call.to_dict(), "stop": first.stop_reason, "text": second.content[0].text}


def others(client) -> dict:
    """Everything else that there is to ask."""
    counted = client.messages.count_tokens(model=MODEL, messages=[{"role": "user", "content": "x" * 400}])
    models = [model.id for model in client.models.list()]
    return {"tokens": counted.input_tokens, "models": models, "model": client.models.retrieve(MODEL).id}


def headers(client) -> dict:
    """What the headers of an answer tell."""
    return dict(client.messages.with_raw_response.create(**ask("[[say:raw]]")).headers)


def pings(client, fault: str) -> list:
    """The pings in a stream without and with a fault; the SDK itself passes them over."""
    counts = []
    for prompt in ("", f"[[simulate:{fault}]]"):
        request = {**ask(f"[[say:one two three four five six]] {prompt}"), "stream": True}
        with client.messages.with_streaming_response.create(**request) as response:
            counts.append([line.strip() for line in response.iter_lines()].count("event: ping"))
    return counts


def errors(client, faults: str) -> dict:
    """How refusals and broken streams arrive; ``faults``: names, separated by commas."""
    found = {}
    for fault in faults.split(","):
        prompt = ask(f"[[simulate:{fault}]] [[say:a b c d e f g h i j k l m n o p q r s t]]")
        try:
            with client.with_options(max_retries=0).messages.stream(**prompt) as events:
                events.get_final_message()
            found[fault] = "nothing"
        except Exception as error:
            found[fault] = type(error).__name__
    return found


def refusal(client, fault: str) -> dict:
    """The headers of a refusal."""
    try:
        client.messages.create(**ask(f"[[simulate:{fault}]]"))
    except anthropic.APIStatusError as error:
        return dict(error.response.headers)
    return {}


def retried(client) -> str:
    """The SDK tries again by itself."""
    return client.messages.create(**ask("[[simulate:529;times=2]] [[say:third time]]")).content[0].text


async def parallel() -> dict:
    """Many at once, through the asynchronous client."""
    async with anthropic.AsyncAnthropic() as client:
        asked = (client.messages.create(**ask(f"[[say:number {number}]]")) for number in range(20))
        answers = await asyncio.gather(*asked)
    return {"texts": [answer.content[0].text for answer in answers]}


async def asynchronous() -> dict:
    """A stream, through the asynchronous client."""
    async with (
        anthropic.AsyncAnthropic() as client,
        client.messages.stream(**ask("[[tokens:150]]")) as events,
    ):
        words = [word async for text in events.text_stream for word in text.split()]
    return {"words": len(words)}


PLAIN = {function.__name__: function for function in (create, stream, tools, others, headers, retried)}
ASYNCHRONOUS = {function.__name__: function for function in (parallel, asynchronous)}


def converse(client, what: str):
    """One of the conversations above."""
    name, _, detail = what.partition(":")
    if detail:
        return {"errors": errors, "refusal": refusal, "pings": pings}[name](client, detail)
    return asyncio.run(ASYNCHRONOUS[name]()) if name in ASYNCHRONOUS else PLAIN[name](client)


def main(arguments: list) -> dict:
    """All that are asked for, one after the other."""
    with anthropic.Anthropic() as client:
        return {what.partition(":")[0]: converse(client, what) for what in arguments}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
