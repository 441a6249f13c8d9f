# mypy: ignore-errors
"""Run by the SDK's own Python: the conversations that its arguments name; results by name, as JSON on standard output.

An argument is ``NAME`` or ``NAME:DETAIL``. Environment: ``OPENAI_BASE_URL`` and ``OPENAI_API_KEY``.
"""

import json
import sys

import openai

MODEL = "gpt-5.4"
TOOL = {
    "type": "function",
    "name": "shout",
    "description": "Says it loudly",
    "parameters": {"type": "object"},
}
CHAT_TOOL = {"type": "function", "function": {"name": "shout", "parameters": {"type": "object"}}}


def create(client) -> dict:
    """A whole response."""
    response = client.responses.create(model=MODEL, input="[[say:whole – 日本語]]")  # noqa: RUF001
    return {"text": response.output_text, "usage": response.usage.to_dict(), "status": response.status}


def stream(client) -> dict:
    """The same in events, through the stream helper, which puts them together again."""
    prompt = "[[say:one two three 🙂]] [[simulate:pieces]]"
    with client.responses.stream(model=MODEL, input=prompt) as events:
        deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
        response = events.get_final_response()
    return {
        "text": response.output_text,
        "deltas": "".join(deltas),
        "output": response.usage.output_tokens,
        "status": response.status,
    }


def tools(client) -> dict:
    """A tool call and its result."""
    history = [{"role": "user", "content": '[[tool:shout:{"what":"hello"}]]'}]
    first = client.responses.create(model=MODEL, input=history, tools=[TOOL])
    call = first.output[-1]
    history += [item.to_dict() for item in first.output]
    history.append({"type": "function_call_output", "call_id": call.call_id, "output": "HELLO"})
    second = client.responses.create(model=MODEL, input=history, tools=[TOOL])
    return {"name": call.name, "arguments": call.arguments, "text": second.output_text}


def structured(client) -> dict:
    """An answer that follows a schema."""
    schema = {"type": "object", "properties": {"n": {"type": "integer"}, "done": {"type": "boolean"}}}
    wanted = {"format": {"type": "json_schema", "name": "answer", "schema": schema}}
    return json.loads(client.responses.create(model=MODEL, input="hi", text=wanted).output_text)


def chat(client) -> dict:
    """Chat completions: whole, in chunks with usage, and with a tool."""
    messages = [{"role": "user", "content": "[[say:chat 日本語]]"}]
    whole = client.chat.completions.create(model=MODEL, messages=messages)
    text, usage = "", None
    options = {"stream": True, "stream_options": {"include_usage": True}}
    for chunk in client.chat.completions.create(model=MODEL, messages=messages, **options):
        usage = chunk.usage or usage
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
    messages = [{"role": "user", "content": '[[tool:shout:{"what":"hello"}]]'}]
    called = client.chat.completions.create(model=MODEL, messages=messages, tools=[CHAT_TOOL])
    (choice,) = called.choices
    return {
        "whole": whole.choices[0].message.content,
        "streamed": text,
        "usage": usage.to_dict(),
        "whole_usage": whole.usage.to_dict(),
        "finish": choice.finish_reason,
        "arguments": choice.message.tool_calls[0].function.arguments,
    }


def models(client) -> dict:
    """The list, and one of it."""
    return {
        "models": [model.id for model in client.models.list()],
        "model": client.models.retrieve(MODEL).id,
    }


def websocket(client) -> dict:
    """Two turns over one WebSocket, the second one built upon the first."""
    texts, tokens, previous = [], [], None
    with client.responses.connect() as connection:
        for prompt in ("[[say:one]]", "[[say:two]]"):
            request = {"model": MODEL, "input": prompt}
            if previous is not None:
                request["previous_response_id"] = previous
            connection.response.create(**request)
            for event in connection:
                if event.type == "response.completed":
                    texts.append(event.response.output_text)
                    tokens.append(event.response.usage.input_tokens)
                    previous = event.response.id
                    break
    return {"texts": texts, "tokens": tokens}


def errors(client, faults: str) -> dict:
    """How refusals and broken streams arrive: an exception, or the last event; ``faults`` separated by commas."""
    found = {}
    for fault in faults.split(","):
        prompt = f"[[simulate:{fault}]] [[say:a b c d e f g h i j k l m n o p]]"
        try:
            events = client.with_options(max_retries=0).responses.create(
                model=MODEL, input=prompt, stream=True
            )
            found[fault] = [event.type for event in events][-1]
        except openai.APIError as error:
            found[fault] = type(error).__name__
    return found


def retried(client) -> str:
    """The SDK tries again by itself."""
    prompt = "[[simulate:500;times=2]] [[say:third time]]"
    return client.responses.create(model=MODEL, input=prompt, prompt_cache_key="retried").output_text


CONVERSATIONS = {
    function.__name__: function
    for function in (create, stream, tools, structured, chat, models, websocket, errors, retried)
}


def main(arguments: list) -> dict:
    """All that are asked for, one after the other."""
    results = {}
    with openai.OpenAI(timeout=20) as client:
        for what in arguments:
            name, _, detail = what.partition(":")
            results[name] = CONVERSATIONS[name](client, *([detail] if detail else []))
    return results


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
