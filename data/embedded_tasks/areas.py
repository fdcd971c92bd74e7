"""Maps modules to areas of the standard library, as the sections of its reference group them."""

AREAS: dict[str, str] = {
    "concurrency": "_threading_local asyncio concurrent multiprocessing queue sched subprocess threading",
    "email": "email mailbox mimetypes quopri",
    "files": "_compression _pyio bz2 dbm filecmp fileinput fnmatch genericpath glob gzip io lzma ntpath os "
    "pathlib posixpath shelve shutil stat tarfile tempfile zipfile",
    "formats": "_markupbase argparse cmd codecs configparser csv difflib getopt gettext html json locale "
    "optparse plistlib pprint re shlex string stringprep textwrap tomllib xml",
    "interfaces": "curses tkinter turtle",
    "language": "_collections_abc abc ast code codeop collections compileall contextlib dataclasses dis enum "
    "functools importlib inspect modulefinder operator pickle pickletools pkgutil py_compile pyclbr pydoc "
    "reprlib runpy symtable tokenize types typing weakref zipimport",
    "network": "cgi ftplib http imaplib ipaddress nntplib poplib selectors smtplib socket socketserver ssl "
    "telnetlib urllib webbrowser wsgiref xmlrpc",
    "numbers": "_pydatetime _pydecimal _strptime bisect calendar colorsys datetime fractions heapq numbers "
    "random statistics uuid zoneinfo",
    "testing": "bdb cProfile doctest logging pdb profile pstats timeit trace traceback tracemalloc unittest "
    "warnings",
}

_AREA_OF = {package: area for area, packages in AREAS.items() for package in packages.split()}


def area_of(module: str) -> str | None:
    """The area of a module's top package; None where it belongs to none."""
    return _AREA_OF.get(module.partition(".")[0])
