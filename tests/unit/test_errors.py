"""Every exception that callers meet comes out of a pickle, and out of a copy, as it went in."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
import pkgutil
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import cloudpickle
import httpx
import pytest

import capo_client
import capo_trainer
import capo_wire as wire
from capo_client import errors

PROBLEM = wire.Problem(type="t", title="T", status=422, detail="d", field="rollouts.0.id")
RESPONSE = httpx.Response(
    422, json={"detail": "d"}, request=httpx.Request("POST", "http://judge/credit", json={"a": 1})
)
# By the parameter's name: what is passed where an exception of ours takes more than a message.
ARGUMENTS: dict[str, Any] = {
    "problem": PROBLEM,
    "response": RESPONSE,
    "failed": [wire.Failed(id="r1", error=PROBLEM)],
}


def modules(package: ModuleType) -> Iterator[ModuleType]:
    yield package
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if "__main__" in found.name:
            continue
        try:
            yield importlib.import_module(found.name)
        except ImportError:  # a framework or an engine that is not installed
            continue


def exceptions() -> list[type[BaseException]]:
    """Those that client and trainer define; the service's become HTTP answers in its process."""
    found = {
        value
        for package in (capo_client, capo_trainer)
        for module in modules(package)
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, BaseException)
        and value.__module__.startswith("capo_")
    }
    return sorted(found, key=lambda kind: (kind.__module__, kind.__qualname__))


def made(kind: type[BaseException]) -> BaseException:
    parameters = inspect.signature(kind.__init__).parameters
    if any(each.kind is each.VAR_POSITIONAL for each in parameters.values()):
        return kind("a message")
    given = {
        name: ARGUMENTS.get(name, "text")
        for name, each in parameters.items()
        if name != "self" and each.kind is not each.VAR_KEYWORD
    }
    return kind(**given)


COPIES: list[Callable[[Any], Any]] = [
    lambda error: pickle.loads(pickle.dumps(error)),
    lambda error: cloudpickle.loads(cloudpickle.dumps(error)),
    copy.copy,
    copy.deepcopy,
]


@pytest.mark.parametrize("kind", exceptions(), ids=lambda kind: kind.__name__)
def test_an_exception_survives_the_way_to_another_process(kind: type[BaseException]) -> None:
    error = made(kind)
    error.add_note("said by the caller")
    for through in COPIES:
        other = through(error)
        assert type(other) is kind
        assert (str(other), other.args) == (str(error), error.args)
        assert vars(other).keys() == vars(error).keys()
        for name, value in vars(error).items():
            if isinstance(value, httpx.Response):
                again = vars(other)[name]
                assert (again.status_code, again.content, again.url) == (
                    value.status_code,
                    value.content,
                    value.url,
                )
            else:
                assert vars(other)[name] == value


def test_all_of_the_client_s_are_there() -> None:
    found = exceptions()
    assert len([kind for kind in found if issubclass(kind, errors.CapoError)]) >= 14
    for name in capo_client.__all__:
        value = getattr(capo_client, name)
        if inspect.isclass(value) and issubclass(value, BaseException):
            assert value in found


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        (401, errors.UnauthorizedError, "CAPO_API_KEY"),
        (403, errors.PermissionDeniedError, "CAPO_API_KEY"),
        (404, errors.NotFoundError, "the service's base URL"),
        (405, errors.MethodNotAllowedError, "the service's base URL"),
        (413, errors.RequestTooLargeError, "batch_size"),
        (415, errors.UnsupportedMediaTypeError, ""),
        (400, errors.InvalidRequestError, ""),
        (422, errors.InvalidRequestError, ""),
        (502, errors.ProblemResponseError, ""),
        (307, errors.ProblemResponseError, ""),
    ],
)
def test_statuses_have_types_and_errors_name_the_url(
    status: int, kind: type[errors.ProblemResponseError], said: str
) -> None:
    response = httpx.Response(status, request=httpx.Request("POST", "http://judge/credit"))
    error = errors.of_problem(PROBLEM.model_copy(update={"status": status}), response)
    assert type(error) is kind and error.status == status
    assert "http://judge/credit" in str(error) and said in str(error)
    if 400 <= status < 500 and status != 401:
        assert isinstance(error, errors.InvalidRequestError), "as before there were more types"


@pytest.mark.parametrize("detail", ["no key", "no key.", "is it a capo service?"])
def test_advice_is_a_sentence_of_its_own(detail: str) -> None:
    problem = wire.Problem(type="t", title="T", status=401, detail=detail)
    sentence = detail if detail.endswith((".", "?")) else f"{detail}."
    assert f"{sentence} Set api_key or" in str(errors.UnauthorizedError(problem))
