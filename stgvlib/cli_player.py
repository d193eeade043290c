"""`stgv export` and `stgv view`: a fitted video in a browser."""

from pathlib import Path

from stgvlib.cli_fit import Overwrite, Positional, say
from stgvlib.errors import StgvError
from stgvlib.files import check_output, write_atomically


def export(model: Positional[Path], output: Positional[Path], /, overwrite: Overwrite = False) -> None:
    """Write a web page that plays a model: one file, which needs no server and no network.

    The page needs a browser with WebGL2. Other browsers show a still picture.

    For example:

    stgv export clip.stgv clip.html

    Args:
        model: Model that `stgv encode` or `stgv fit` wrote. A .safetensors model is rounded as `stgv encode` does.
        output: Name ending in .html.
    """
    from stgvlib.player.page import page, playable

    if output.suffix.lower() not in (".html", ".htm"):
        raise StgvError(f"output must end in .html, got {output.name}")
    if output.is_dir():
        raise StgvError(f"cannot write {output}: it is a folder")
    check_output(output, (model,), overwrite)
    data, poster = playable(model)
    whole = page(model.with_suffix(".stgv").name, data, poster).encode()
    write_atomically(output, whole)
    say(f"wrote {output}: {len(whole):,} bytes, of which the video has {len(data):,}")


def view(model: Positional[Path], /, video: Path | None = None, port: int = 0) -> None:
    """Play a model in the browser, from a server on this machine that only this machine reaches. Ctrl-C ends it.

    For example:

    stgv view clip.stgv

    stgv view clip.stgv --video clip.mp4

    Args:
        model: Model that `stgv encode` or `stgv fit` wrote. A .safetensors model is rounded as `stgv encode` does.
        video: The video that was fitted, in a format that browsers play: for a split picture, an error map and PSNR.
        port: Port of the server; 0 takes a free one.
    """
    from stgvlib.player.page import playable
    from stgvlib.player.serve import server
    from stgvlib.signals import Stopped

    if not 0 <= port <= 65535:
        raise StgvError(f"port must be from 0 to 65535, got {port}")
    if video is not None and not video.is_file():
        raise StgvError(f"{video} does not exist or is no file; expected the video that was fitted")
    data, _ = playable(model)
    with server(model.with_suffix(".stgv").name, data, video, port) as running:
        print(f"http://127.0.0.1:{running.server_port}/", flush=True)
        say("playing until Ctrl-C")
        try:
            running.serve_forever()
        except Stopped:
            raise
        except KeyboardInterrupt:
            pass
