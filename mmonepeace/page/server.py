"""The page as a WSGI application, and its server, for this machine alone.

What a browser may be made to do by other pages is refused: another Host than this machine's (DNS
rebinding), and forms that another page sends. Requests name items by their row, never by a path.
"""

import errno
import os
import secrets
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib import resources
from io import BytesIO
from mimetypes import guess_type
from typing import Any

from jinja2 import Environment, Template
from markupsafe import escape
from werkzeug.exceptions import HTTPException, NotFound, RequestEntityTooLarge
from werkzeug.routing import Map, Rule
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.utils import send_file
from werkzeug.wrappers import Request, Response

from mmonepeace.console import printable
from mmonepeace.datasets import image_io
from mmonepeace.datasets.file_folders import SUFFIXES
from mmonepeace.exit_status import UserError
from mmonepeace.page.abilities import MOST_RESULTS, Ability, Field, Search
from mmonepeace.visualization.gallery import style_sheet

HOST = "127.0.0.1"
HOSTS = {HOST, "localhost", "[::1]"}
MAX_PIXELS = 40_000_000  # of an uploaded image; a camera's have 12 to 24 million
MAX_TEXT = 10_000  # characters of a field
_MEGABYTE = 2**20
# A browser shows the answer to an upload once it has sent all of it: so much of a refused one is read.
_DRAINED = 16
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_POLICY = (
    "default-src 'none'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "style-src 'unsafe-inline'; script-src 'nonce-{nonce}'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)


class Refused(Exception):
    """What is wrong with a request, for the page, and the status of HTTP."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Page:
    """The application: forms of abilities at /, their results at /run/N, files of an index at /item.

    Args:
        abilities: what there is to try, in order.
        max_upload_mb: limit of a request, in megabytes.
    """

    def __init__(self, abilities: Sequence[Ability], max_upload_mb: int = 20) -> None:
        self.abilities = list(abilities)
        self.max_upload_mb = max_upload_mb
        self.search = next((a for a in abilities if isinstance(a, Search)), None)
        self.lock = threading.Lock()  # one request at a time in the models
        self.routes = Map(
            [
                Rule("/", endpoint=self._show, methods=["GET"]),
                Rule("/run/<int:number>", endpoint=self._run, methods=["POST"]),
                Rule("/item/<among>/<int:row>", endpoint=self._send_item, methods=["GET"]),
            ]
        )

    def __call__(self, environ: Any, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request, whatever happens."""
        request = Request(environ)
        request.max_content_length = self.max_upload_mb * _MEGABYTE
        request.max_form_memory_size = 10 * MAX_TEXT
        try:
            response = self._respond(request)
        except Refused as refused:
            response = _message(str(refused), refused.status)
        except RequestEntityTooLarge:
            self._drain(environ)
            response = _message(
                f"the upload is larger than {self.max_upload_mb} MB, or a text than {MAX_TEXT:,} "
                "characters. Send less, or start the page with a larger --max-upload-mb.",
                413,
            )
        except HTTPException as error:
            response = _message(f"{error.name}.", error.code or 500)
        except Exception:  # noqa: BLE001  (a fault of one request never ends the server)
            print(printable(traceback.format_exc()), file=sys.stderr, flush=True)
            response = _message(
                "the model failed on this. The terminal of the server says where.", 500
            )
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        response.headers.setdefault("Content-Security-Policy", "default-src 'none'; sandbox")
        return response(environ, start_response)

    def _respond(self, request: Request) -> Response:
        host = request.environ.get("HTTP_HOST", "")
        if _without_port(host) not in HOSTS:
            raise Refused(403, f"the page is at {HOST} alone, not at {host!r}.")
        origin = request.headers.get("Origin")
        if request.method == "POST" and origin not in (None, f"http://{host}"):
            raise Refused(403, f"the form was sent by another page, {origin!r}.")
        endpoint, values = self.routes.bind_to_environ(request.environ).match()
        response: Response = endpoint(request, **values)
        return response

    def _show(self, request: Request) -> Response:
        nonce = secrets.token_urlsafe(16)
        html = _template().render(
            abilities=self.abilities,
            style=style_sheet(),
            nonce=nonce,
            accepted={kind: ",".join(sorted(suffixes)) for kind, suffixes in SUFFIXES.items()},
            max_upload_mb=self.max_upload_mb,
            most_results=MOST_RESULTS,
        )
        policy = {"Content-Security-Policy": _POLICY.format(nonce=nonce)}
        return Response(html, mimetype="text/html", headers=policy)

    def _run(self, request: Request, number: int) -> Response:
        if number >= len(self.abilities):
            raise NotFound
        ability = self.abilities[number]
        values = {}
        for field in ability.fields:
            value = _read(field, request)
            if value is not None:
                values[field.name] = value
            elif field.required:
                raise Refused(400, f"{field.label} is missing: fill it in.")
        try:
            with self.lock:
                html = ability.run(values)
        except (ValueError, UserError) as error:
            raise Refused(400, str(error)) from None
        return Response(html, mimetype="text/html")

    def _send_item(self, request: Request, among: str, row: int) -> Response:
        path = self.search.file(among, row) if self.search else None
        known = path is not None and path.suffix.lower() in SUFFIXES["image"] | SUFFIXES["audio"]
        if path is None or not known or not path.is_file():
            raise Refused(404, "the index has no such file.")
        kind = guess_type(f"x{path.suffix.lower()}")[0] or "application/octet-stream"
        return send_file(path, request.environ, kind, conditional=True)

    def _drain(self, environ: Any) -> None:
        """Read a refused upload, within reason."""
        left = min(
            int(environ.get("CONTENT_LENGTH") or 0), _DRAINED * self.max_upload_mb * _MEGABYTE
        )
        try:
            while left > 0 and (read := len(environ["wsgi.input"].read(min(left, _MEGABYTE)))):
                left -= read
        except (OSError, HTTPException):
            pass  # the browser has given up


def serve(page: Page, port: int, ready: Callable[[str], None]) -> None:
    """Serve a page until a signal ends it; `ready` takes its address.

    Raises:
        UserError: if the port is in use.
    """
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            if port:  # some systems let two servers share a port, of which one gets no visitor
                with socket.socket() as visitor:
                    if visitor.connect_ex((HOST, port)) == 0:
                        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
            listening.bind((HOST, port))
        except OSError as error:
            raise UserError(
                f"port {port} cannot be used: {error.strerror}. Name another one: --port; 0 takes any."
            ) from None
        listening.listen()
        port = listening.getsockname()[1]
        # With a socket of ours, a port in use does not end the process.
        server = make_server(
            HOST, port, page, threaded=True, request_handler=_Quiet, fd=listening.fileno()
        )
        ready(f"http://{HOST}:{port}/")
        server.serve_forever()


class _Quiet(WSGIRequestHandler):
    """Lists no requests."""

    def log(self, type: str, message: str, *args: Any) -> None:
        """Print what is not a request that was answered."""
        if type != "info":
            print(printable(message % args), file=sys.stderr, flush=True)


@cache
def _template() -> Template:
    source = resources.files(__package__).joinpath("page.html").read_text("utf-8")
    return Environment(autoescape=True).from_string(source)


def _message(text: str, status: int) -> Response:
    """What went wrong, as markup."""
    html = f'<p class="error" role="alert">{escape(text)}</p>'
    return Response(html, status, mimetype="text/html")


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdecimal() else host).lower()


def _read(field: Field, request: Request) -> Any:
    """The value of a field; None if it is empty."""
    if field.kind in ("image", "audio"):
        file = request.files.get(field.name)
        content = file.read() if file else b""
        if content and field.kind == "image":
            _check_pixels(field, content)
        return content or None
    text = request.form.get(field.name, field.default).strip()
    if len(text) > MAX_TEXT:
        raise Refused(413, f"{field.label} has {len(text):,} characters, at most {MAX_TEXT:,}.")
    if field.kind == "choice":
        text = text or field.options[0]
        if text not in field.options:
            raise Refused(400, f"{field.label} is {text!r}, expected {', '.join(field.options)}.")
        return text
    if field.kind == "count":
        # isdecimal alone takes digits of any script, and any number of them.
        if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= MOST_RESULTS):
            raise Refused(400, f"{field.label} is {text!r:.40}, expected 1 to {MOST_RESULTS}.")
        return int(text[:9])
    if field.kind == "lines":
        return [line.strip() for line in text.splitlines() if line.strip()] or None
    return text or None


def _check_pixels(field: Field, content: bytes) -> None:
    """Refuse what is not an image, or decodes to too much memory, before it is decoded."""
    try:
        with image_io.open_image(BytesIO(content)) as image:
            width, height = image.size
    except Exception as error:  # noqa: BLE001  (decoders fail in many ways)
        said = str(error) if isinstance(error, ValueError) else "it is damaged."
        raise Refused(400, f"{field.label} cannot be read: {said}") from None
    if width * height > MAX_PIXELS:
        raise Refused(
            400,
            f"{field.label} has {width:,} x {height:,} pixels, at most {MAX_PIXELS:,}. Scale it down.",
        )
