"""jaxtyping's checks of arguments and results with less around them, for functions of the package.

jaxtyping binds the arguments of every call by `inspect.Signature.bind`, checks them a second time
when it checks the result, and writes both checks anew whenever a function inside a function is
made. Here the checks of a function are written once, at its first call, and made once a call. Where
an argument fails, jaxtyping's own wrapper says so; and annotations that name arguments, as in
"b {self.features}", stay with it.
"""

import functools
import inspect
import types
import weakref
from typing import Any, NoReturn

import jaxtyping
from jaxtyping import _decorator, _storage

_jaxtyped = _decorator.jaxtyped
_of_code = {}  # a function inside a function has the same checks whenever it is made


def install():
    """For what is imported from now on."""
    jaxtyping.jaxtyped = _decorator.jaxtyped = jaxtyped


def jaxtyped(fn=_decorator._sentinel, *, typechecker=_decorator._sentinel):
    """Takes the place of `jaxtyping.jaxtyped`."""
    if inspect.isclass(fn) and hasattr(fn.__init__, "is_checked"):  # a subclass has it already
        return fn
    if not isinstance(fn, types.FunctionType):
        return _jaxtyped(fn, typechecker=typechecker)
    if not fn.__annotations__:
        return fn
    if any("{" in str(annotation) for annotation in fn.__annotations__.values()):
        return _jaxtyped(fn, typechecker=typechecker)
    return _checked(fn, typechecker)


def _checked(fn, typechecker):
    checks, own = None, []  # a weak reference: what a function holds goes with it, at once

    @functools.wraps(fn)
    def checked(*args, **kwargs):
        __tracebackhide__ = True
        nonlocal checks
        checks = checks or _checks_of(fn, own[0](), typechecker)
        check_arguments, check_result = checks
        _storage.push_shape_memo({})  # the sizes by their letters
        try:
            try:
                check_arguments(*args, **kwargs)
            except Exception:
                return _jaxtyped(fn, typechecker=typechecker)(*args, **kwargs)
            result = fn(*args, **kwargs)
            try:
                check_result(result)
            except Exception as error:
                raise jaxtyping.TypeCheckError(
                    f"{fn.__module__}.{fn.__qualname__} returned what it must not: {error}"
                ) from error
            return result
        finally:
            _storage.pop_shape_memo()

    checked.is_checked = True
    own.append(weakref.ref(checked))
    return checked


def _checks_of(fn, checked, typechecker):
    """Two functions that raise an error: of all arguments, and of the result."""
    if any(getattr(one, "__no_type_check__", False) for one in (fn, checked)):
        return _everything, _everything
    known = fn.__code__, tuple(map(str, fn.__annotations__.values()))
    if known not in _of_code:
        _of_code[known] = _written(fn, typechecker)
    return _of_code[known]


def _written(fn, typechecker):
    signature = inspect.signature(fn)
    hint = functools.partial(_decorator._destring_annotation, ns=fn.__globals__)
    parameters = [p.replace(annotation=hint(p.annotation)) for p in signature.parameters.values()]
    result = hint(signature.return_annotation)
    value = inspect.Parameter("value", inspect.Parameter.POSITIONAL_ONLY, annotation=result)

    def check_of(parameters):
        names = fn.__name__, fn.__qualname__, fn.__module__
        alone = signature.replace(parameters=parameters, return_annotation=Any)
        check = _decorator._make_fn_with_signature(*names, alone, output=False)
        return _decorator._apply_typechecker(typechecker, check)

    return check_of(parameters), _nothing if result is NoReturn else check_of([value])


def _nothing(value):
    raise TypeError(f"{value!r}, and it is said never to return")


def _everything(*args, **kwargs):
    """All is right."""
