"""A Python, and a ``realignkit``, that start at once: each is a fork of a process that has imported the libraries.

A command has the arguments, folder, environment and files of whoever starts it, and imports realignkit and its plugins
itself. What libraries read as they are imported (``HF_HOME``) has been read, and the hash seed is the same for all: a
test of imports, of start-up or of such a variable starts ``sys.executable``.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from pathlib import Path

LIBRARIES = """
PIL.BmpImagePlugin PIL.GifImagePlugin PIL.ImageDraw PIL.JpegImagePlugin PIL.PngImagePlugin PIL.PpmImagePlugin
accelerate diffusers.guiders diffusers.loaders diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion
diffusers.schedulers diffusers.schedulers.scheduling_ddim diffusers.schedulers.scheduling_ddpm
diffusers.schedulers.scheduling_dpmsolver_multistep diffusers.schedulers.scheduling_unipc_multistep filelock httpx2
jinja2 numpy.typing peft pluggy pydantic.main pydantic.type_adapter pydantic.types rich._emoji_codes rich.progress
rich.status rich.table safetensors.torch torch torch.utils.data transformers.models.clip.modeling_clip
transformers.models.clip.tokenization_clip transformers.models.clipseg.modeling_clipseg
transformers.models.vit.image_processing_pil_vit transformers.models.vit.modeling_vit typer yaml
"""


def install(folder: Path) -> None:
    """Write ``folder/python`` and ``folder/realignkit``, commands of the server that :func:`serve` starts there."""
    for name, script in {"python": "", "realignkit": f'"{Path(sys.executable).with_name("realignkit")}" '}.items():
        command = folder / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -IS "{__file__}" ask "{folder}" {script}"$@"\n')
        command.chmod(0o755)


def ask(folder: str, *arguments: str) -> None:
    """Have the server run Python with these arguments, and end as it does."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(f"{folder}/socket")
        socket.send_fds(server, [b"+"], [0, 1, 2])
        server.sendall(json.dumps([arguments, os.getcwd(), dict(os.environ)]).encode())
        server.shutdown(socket.SHUT_WR)
        status = int(server.recv(16) or signal.SIGKILL)
    if os.WIFSIGNALED(status):
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.waitstatus_to_exitcode(status))


def serve(folder: str) -> tuple[list[str], str, dict[str, str]]:
    """Answer until standard input ends; in each fork, return what is to be run."""
    import gc
    import importlib
    import select

    sys.path.pop(0)  # the folder of this file
    for name in LIBRARIES.split():
        importlib.import_module(name)
    assert len(os.listdir("/proc/self/task")) == 1, "a library has started threads, which a fork does not have"
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{folder}/socket")
    listener.listen()
    print("ready", flush=True)
    keepers: list[int] = []
    while listener in select.select([listener, sys.stdin], [], [])[0]:
        client, _ = listener.accept()
        if keeper := os.fork():
            client.close()
            keepers.append(keeper)
            continue
        listener.close()
        _, descriptors, _, _ = socket.recv_fds(client, 1, 3)
        request = json.loads(client.makefile("rb").read())
        if command := os.fork():  # this one stays to tell how it ended
            client.sendall(b"%d" % os.waitpid(command, 0)[1])
            os._exit(0)
        client.close()
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
            os.close(descriptor)
        return request
    for keeper in keepers:
        os.waitpid(keeper, 0)
    os._exit(0)


def become(arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    """Run ``python ARGUMENTS`` in this process."""
    import runpy
    from types import ModuleType

    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    path = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
    option, *rest = arguments
    if option == "-c":
        code, *rest = rest
        sys.argv, sys.path[:0] = ["-c", *rest], ["", *path]
        main = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(code, "<string>", "exec"), vars(main))
    elif option == "-m":
        module, *rest = rest
        sys.argv, sys.path[:0] = [module, *rest], [folder, *path]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[:0] = [option, *rest], [str(Path(option).parent.resolve()), *path]
        runpy.run_path(option, run_name="__main__")


def finish(code: object) -> None:
    """End this process as ``sys.exit(code)`` does, without the half second that taking the libraries apart costs."""
    import atexit
    import threading

    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else code is not None)


if __name__ == "__main__":
    role, *arguments = sys.argv[1:]
    if role == "ask":
        ask(*arguments)
    command = serve(*arguments)
    try:
        become(*command)
    except SystemExit as stop:
        finish(stop.code)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        finish(1)
    finish(0)
