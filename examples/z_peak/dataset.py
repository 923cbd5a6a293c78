"""Find the recorded Z → μ⁺μ⁻ events that come with the package scikit-hep-testdata 0.3.0.

    dataset.py                  print where the file is
    dataset.py --copy-to DIR    copy it there, and print where

Needs no network. Later releases of the package download the file at run time.
"""

import argparse
import shutil
import zlib
from importlib.resources import as_file, files
from pathlib import Path

NAME = "uproot-Zmumu.root"
SIZE = 178_971  # bytes
ADLER32 = "3eaecc1d"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--copy-to", type=Path, metavar="DIR", help="made if it does not exist")
    directory = parser.parse_args().copy_to

    try:
        resource = files("skhep_testdata") / "data" / NAME
    except ModuleNotFoundError:
        raise SystemExit("error: scikit-hep-testdata==0.3.0 is not installed here") from None
    if not resource.is_file():
        raise SystemExit(f"error: this scikit-hep-testdata has no {NAME}: install release 0.3.0")
    with as_file(resource) as source:
        path = source
        if directory:
            directory.mkdir(parents=True, exist_ok=True)
            path = Path(shutil.copyfile(source, directory / NAME))
        content = path.read_bytes()
        adler32 = f"{zlib.adler32(content):08x}"
        if (len(content), adler32) != (SIZE, ADLER32):
            raise SystemExit(
                f"error: {path}: {len(content)} bytes with adler32 {adler32}, "
                f"not {SIZE} with {ADLER32}"
            )
        print(path)


if __name__ == "__main__":
    main()
