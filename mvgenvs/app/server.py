"""Serves the browser app: to this machine alone, with nothing from elsewhere, from a folder that is deleted at exit."""

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from importlib import resources
from pathlib import Path
from typing import Any

from mvgenvs.errors import UserError

EXAMPLE = Path(__file__).parents[2] / "assets/car.png"  # not there if mvgenvs was not installed from a checkout
LARGEST_UPLOAD = "20mb"
# Everything that a page loads comes from this server, or is in the page: gradio's own scripts need the unsafe words.
POLICY = "; ".join(
    [
        "default-src 'self' data: blob:",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    ]
)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class NothingFromElsewhere:
    """An ASGI layer: browsers are told to load nothing from other hosts, and the server fetches nothing for them."""

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Refuses gradio's way to fetch an address through this server, and adds the policy to every answer."""
        if scope["type"] == "http" and ("http:/" in scope["path"] or "https:/" in scope["path"]):
            await send({"type": "http.response.start", "status": 403, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", POLICY.encode())
                message = {**message, "headers": [*message.get("headers", []), policy]}
            await send(message)

        await self.app(scope, receive, send_with_policy)


def serve(checkpoint: str, device: str, host: str, port: int) -> None:
    """Serves until Ctrl-C or SIGTERM, then deletes all uploads and results. Raises `UserError`."""
    from mvgenvs.device import resolve_device
    from mvgenvs.pipeline import MultiViewPipeline

    pipe = MultiViewPipeline.from_pretrained(checkpoint).to(resolve_device(device))
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with tempfile.TemporaryDirectory(prefix="mvgenvs-app-", ignore_cleanup_errors=True) as folder:
        page = start(pipe, Path(folder), host, port)
        print(f"Open http://{host}:{port} in a browser; Ctrl-C ends.", flush=True)
        try:
            ended.wait()
        finally:
            page.close()


def start(pipe: Any, folder: Path, host: str, port: int) -> Any:
    """Starts the server in a thread and returns gradio's page; everything it writes is in `folder`.

    Raises `UserError` if the port is taken.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # these three are read when gradio is imported
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "uploads")
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    import gradio as gr
    from starlette.middleware import Middleware

    from mvgenvs.app.layout import build_page
    from mvgenvs.app.studio import Studio

    (folder / "orbits").mkdir()
    static = resources.files("mvgenvs.app") / "static"
    own = {name: (static / name).read_text(encoding="utf-8") for name in ("orbit.js", "page.css")}
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # none to be fetched
    example = folder / EXAMPLE.name if EXAMPLE.exists() else None
    if example is not None:
        shutil.copyfile(EXAMPLE, example)  # gradio takes files from temporary folders only
    page = build_page(Studio(pipe, folder / "orbits"), example)
    try:
        page.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            ssr_mode=False,
            footer_links=[],
            max_file_size=LARGEST_UPLOAD,
            app_kwargs={"middleware": [Middleware(NothingFromElsewhere)]},
            theme=gr.themes.Soft(**fonts),
            css=own["page.css"],
            head=f"<script>{own['orbit.js']}</script>",
        )
    except OSError as error:
        raise UserError(f"cannot serve at {host}:{port}, choose another --port: {str(error).splitlines()[0]}") from None
    return page
