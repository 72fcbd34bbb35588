"""The file inside a `multipart/form-data` body, handed on while it arrives: nothing is spooled."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.problems import MalformedBody, UnsupportedMediaType

MEDIA_TYPE = "multipart/form-data"
HOW_TO_SEND = "Send one file, as `curl -F file=@FILE` does, or its bytes as application/octet-stream."


class FormFile:
    """The first file of a form; small fields before it are passed over.

    Args:
        content_type: The request's header; it names the boundary.
        body: The request's body as it arrives.
    """

    def __init__(self, content_type: str, body: AsyncIterator[bytes]) -> None:
        _, options = parse_options_header(content_type)
        self._body = body
        self._data: deque[bytes] = deque()
        self._header = b""
        self._value = b""
        self._disposition = b""
        self._filename: str | None = None
        self._inside = False
        self._complete = False
        self._parser = _parser(options.get(b"boundary", b""), self)

    async def filename(self) -> str:
        """The name that the form gives the file; reads as far as that is.

        Raises:
            UnsupportedMediaType: the form holds no file.
            MalformedBody: the body is no form.
        """
        while self._filename is None:
            if not await self._read():
                raise UnsupportedMediaType("The form holds no file.", remedy=HOW_TO_SEND)
        return self._filename

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes of the file.

        Raises:
            MalformedBody: the body ended before the file did.
        """
        await self.filename()
        while True:
            while self._data:
                yield self._data.popleft()
            if self._complete:
                return
            if not await self._read():
                raise MalformedBody("The body ended before the file in it did.", remedy=HOW_TO_SEND)

    async def _read(self) -> bool:
        chunk = await anext(self._body, None)
        if chunk is None:
            return False
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise MalformedBody("The body is not multipart/form-data.", remedy=HOW_TO_SEND) from error
        return True

    def on_part_begin(self) -> None:
        self._disposition = b""

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"filename")
        if name is not None and self._filename is None:
            # Browsers and curl write the name as UTF-8; the parser reads headers as Latin-1.
            self._filename = name.decode("utf-8", "replace")
            self._inside = True

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._inside:
            self._data.append(data[start:end])

    def on_part_end(self) -> None:
        self._complete = self._complete or self._inside
        self._inside = False


def _parser(boundary: bytes, file: FormFile) -> MultipartParser:
    if not boundary:
        raise MalformedBody("The Content-Type names no boundary.", remedy=HOW_TO_SEND)
    try:
        return MultipartParser(
            boundary,
            {
                "on_part_begin": file.on_part_begin,
                "on_part_data": file.on_part_data,
                "on_part_end": file.on_part_end,
                "on_header_field": file.on_header_field,
                "on_header_value": file.on_header_value,
                "on_header_end": file.on_header_end,
                "on_headers_finished": file.on_headers_finished,
            },
        )
    except FormParserError as error:
        raise MalformedBody("The boundary of the form is not one.", remedy=HOW_TO_SEND) from error
