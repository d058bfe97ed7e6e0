"""One captioned clip as a record: a msgpack map.

`key`, unique within a folder of records; `caption`, and `other_captions` where there are several;
`suffix`, such as ".mp4"; `content`, the bytes of such a file; `metadata`, a small map.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgpack

from vidgen.data.sources.caption_text import unique


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipRecord:
    """One captioned clip, and the file that it is.

    Attributes:
      key: unique within a folder.
      caption: "" where there is none; the first where there are several.
      suffix: the suffix of the file that `content` is, ".mp4" and the like; of images also.
      content: all bytes of that file.
      metadata: whatever msgpack can hold; nothing here reads it.
      other_captions: further ones of the same clip.
    """

    key: str
    caption: str
    suffix: str
    content: bytes = dataclasses.field(repr=False)
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    other_captions: Sequence[str] = ()

    @property
    def captions(self) -> tuple[str, ...]:
        """All captions of the clip, none blank."""
        return unique((self.caption, *self.other_captions))

    def pack(self) -> bytes:
        """Pack the record into bytes.

        Returns:
          A msgpack map; `other_captions` is left out where there are none.
        """
        found = dict(vars(self))
        if not self.other_captions:
            del found["other_captions"]
        return cast(bytes, msgpack.packb(found, unicode_errors="surrogatepass"))

    @classmethod
    def unpack(cls, data: bytes) -> ClipRecord:
        """Unpack what `pack` packed; fields of later versions are left out.

        Args:
          data: a record of a shard.

        Returns:
          The record.

        Raises:
          ValueError: it is no such record; the message is a clause.
        """
        try:
            found = msgpack.unpackb(data, unicode_errors="surrogatepass")
            found.setdefault("other_captions", ())  # as in records of one caption
            kept = {field.name: found[field.name] for field in dataclasses.fields(cls)}
        except (ValueError, KeyError, TypeError, AttributeError, msgpack.UnpackException) as error:
            raise ValueError(f"it is no record of a clip ({type(error).__name__})") from error
        others = kept["other_captions"]
        texts = (kept["caption"], *others) if isinstance(others, list | tuple) else (None,)
        if not isinstance(kept["content"], bytes) or not all(isinstance(t, str) for t in texts):
            raise ValueError("it is no record of a clip (a field is of another type)")
        return cls(**kept)
