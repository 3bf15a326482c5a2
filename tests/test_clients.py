"""Programs of others talk to the server: chat, stream, JSON by a schema, a history with tools, responses, a few lines each.

They come with `uv sync --group compat`; none of them is told anything but the address. Their imports take most of the time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from test_responses import Bird
from test_server import HELLO, serving

pytestmark = pytest.mark.filterwarnings("ignore")  # their own
CALL = {"id": "a", "type": "function", "function": {"name": "python", "arguments": '{"code": "6*7"}'}}
HISTORY: list[Any] = [
    *HELLO,
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "a", "content": "42"},
    {"role": "user", "content": "And?"},
]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving() as address:
        yield address + "/v1"


def library(name: str) -> Any:
    return pytest.importorskip(name, reason=f"{name} is in the group `compat`")


def test_langchain(url: str) -> None:
    kind = library("langchain_openai").ChatOpenAI
    chat = kind(model="sft", base_url=url, api_key="none", max_tokens=40, temperature=1, seed=5)
    whole = chat.invoke("Hello").content
    assert whole
    assert "".join(chunk.content for chunk in chat.stream("Hello")) == whole
    assert chat.invoke(HISTORY).content
    structured = kind(model="sft", base_url=url, api_key="none").with_structured_output(Bird, method="json_schema")
    assert isinstance(structured.invoke("Which bird?"), Bird)
    responses = kind(model="sft", base_url=url, api_key="none", max_tokens=40, use_responses_api=True)
    assert responses.invoke("Hello").text
    assert "".join(chunk.text for chunk in responses.stream("Hello"))


def test_pydantic_ai(url: str) -> None:
    ai = library("pydantic_ai")
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider

    provider = OpenAIProvider(base_url=url, api_key="none")

    async def stream(agent: Any) -> str:
        async with agent.run_stream("Hello") as result:
            return "".join([piece async for piece in result.stream_text(delta=True)])

    for kind in (OpenAIChatModel, OpenAIResponsesModel):
        model = kind("sft", provider=provider)
        agent = ai.Agent(model, model_settings={"max_tokens": 40})
        first = agent.run_sync("Hello")
        assert first.output
        assert agent.run_sync("And?", message_history=first.all_messages()).output
        assert asyncio.run(stream(agent))
        structured = ai.Agent(model, output_type=ai.NativeOutput(Bird))
        assert isinstance(structured.run_sync("Which bird?").output, Bird)


def test_openai_agents(url: str) -> None:
    agents = library("agents")
    import openai

    agents.set_tracing_disabled(True)
    settings = agents.ModelSettings(max_tokens=100)

    async def talk() -> None:
        async with openai.AsyncOpenAI(base_url=url, api_key="none") as client:
            for kind in (agents.OpenAIChatCompletionsModel, agents.OpenAIResponsesModel):
                model = kind(model="sft", openai_client=client)
                # By a schema, for an answer that was cut off is an error to this client, and the model here ends none by itself.
                agent = agents.Agent(
                    name="Pip", instructions="Be kind.", model=model, output_type=Bird, model_settings=settings
                )
                first = await agents.Runner.run(agent, "Which bird?")
                assert isinstance(first.final_output, Bird)
                assert (await agents.Runner.run(agent, [*first.to_input_list(), *HELLO])).final_output
                run = agents.Runner.run_streamed(agent, "Which bird?")
                assert [event.type async for event in run.stream_events()]
                assert isinstance(run.final_output, Bird)

    asyncio.run(talk())


def test_llm(url: str) -> None:
    library("llm")
    from llm.default_plugins.openai_models import Chat

    model = Chat(model_id="pip", model_name="sft", api_base=url, supports_schema=True)
    settings: Any = {"max_tokens": 100, "seed": 5, "key": "none"}
    talk = model.conversation()
    assert talk.prompt("Hello", stream=False, **settings).text()
    assert "".join(talk.prompt("And?", stream=True, **settings))
    schema = model.prompt("Which bird?", schema=Bird.model_json_schema(), stream=False, **settings)
    assert Bird.model_validate_json(schema.text())


def test_litellm(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # or it would ask the network for prices
    litellm = library("litellm")
    asked: Any = {"model": "openai/sft", "api_base": url, "api_key": "none", "max_tokens": 100, "seed": 5}
    whole = litellm.completion(messages=HELLO, **asked).choices[0].message.content
    assert whole
    pieces = litellm.completion(messages=HELLO, stream=True, **asked)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == whole
    assert litellm.completion(messages=HISTORY, **asked).choices
    structured = litellm.completion(messages=HELLO, response_format=Bird, **asked)
    assert Bird.model_validate_json(structured.choices[0].message.content)
    del asked["max_tokens"], asked["seed"]
    assert litellm.responses(input="Hello", max_output_tokens=40, **asked).output
