"""What a piece of SQL is: read off its text once, then remembered.

Honker has no way to ask SQLite, so the driver has to know from the text alone whether a statement reads or writes,
begins or ends a transaction, which placeholders it has, and how it can be sent so that every column comes back.
"""

import re
import sqlite3
from collections.abc import Callable, Iterator
from enum import Enum, auto

__all__ = ["Kind", "Statement", "Token", "savepoint_name", "split_script", "statement_of", "tokens"]


class Kind(Enum):
    """How a statement is run."""

    NOTHING = auto()  # white space and comments
    READ = auto()  # on a reader
    WRITE = auto()  # on the writer
    SCHEMA = auto()  # on the writer, and columns may change
    PRAGMA = auto()
    BEGIN = auto()
    COMMIT = auto()
    ROLLBACK = auto()
    SAVEPOINT = auto()
    RELEASE = auto()
    ROLLBACK_TO = auto()
    OTHER = auto()  # ATTACH, VACUUM, what SQLite will refuse: on the writer


_TOKEN = re.compile(
    r"""
      (?P<space>\s+|--[^\n]*|/\*.*?(?:\*/|\Z))
    | (?P<text>'(?:[^']|'')*')
    | (?P<name>"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\])
    | (?P<parameter>\?\d*|[:@$][\w$]+)
    | (?P<word>[^\W\d][\w$]*)
    | (?P<number>\d[\w.]*|\.\d\w*)
    | (?P<sign>.)
    """,
    re.VERBOSE | re.DOTALL,
)

_LEAD = re.compile(r"(?:\s+|--[^\n]*(?:\n|\Z)|/\*.*?(?:\*/|\Z)|;)*([A-Za-z]*)", re.DOTALL)
_SIDE_EFFECT = re.compile(r"\b(?:notify|honker_\w+|load_extension|nextval)\s*\(", re.IGNORECASE)
_COUNTER = re.compile(r"\b(last_insert_rowid|changes|total_changes)\s*\(\s*\)", re.IGNORECASE)
_INSERT_OF_ONE_ROW = re.compile(r'\s*INSERT\s+INTO\s+[\w".]+\s*\([^()]*\)\s*VALUES\s*\([^()]*\)\s*;?\s*', re.IGNORECASE)
_COUNT_STAR = re.compile(r"\(\s*\*\s*\)")
_QUOTES = ("'", '"', "`", "[")
_MARKS = re.compile(r";|--|/\*")
_TEMPORARY = re.compile(r"\btemp(?:orary)?\b", re.IGNORECASE)

_BY_VERB = {
    "": Kind.NOTHING,
    "SELECT": Kind.READ,
    "VALUES": Kind.READ,
    "EXPLAIN": Kind.READ,
    "INSERT": Kind.WRITE,
    "REPLACE": Kind.WRITE,
    "UPDATE": Kind.WRITE,
    "DELETE": Kind.WRITE,
    "CREATE": Kind.SCHEMA,
    "DROP": Kind.SCHEMA,
    "ALTER": Kind.SCHEMA,
    "PRAGMA": Kind.PRAGMA,
    "BEGIN": Kind.BEGIN,
    "COMMIT": Kind.COMMIT,
    "END": Kind.COMMIT,
    "ROLLBACK": Kind.ROLLBACK,
    "SAVEPOINT": Kind.SAVEPOINT,
    "RELEASE": Kind.RELEASE,
}
_DML = frozenset({"INSERT", "REPLACE", "UPDATE", "DELETE"})


class Token:
    """A piece of SQL text: `kind` as the tokenizer names it, `text`, and where it stands."""

    __slots__ = ("depth", "end", "kind", "start", "text")

    def __init__(self, kind: str, text: str, start: int, end: int, depth: int) -> None:
        self.kind = kind
        self.text = text
        self.start = start
        self.end = end
        self.depth = depth


def tokens(sql: str) -> Iterator[Token]:
    """The tokens of `sql` without white space and comments; `depth` counts the open parentheses around each."""
    depth = 0
    for match in _TOKEN.finditer(sql):
        kind = match.lastgroup or "sign"
        if kind == "space":
            continue
        text = match[0]
        if text == ")":
            depth -= 1
        yield Token(kind, text, match.start(), match.end(), depth)
        if text == "(":
            depth += 1


class Statement:
    """One SQL text and what the driver knows of it."""

    __slots__ = (
        "_placeholders",
        "body",
        "changes_rows",
        "columns",
        "counters",
        "distinct",
        "exact",
        "is_dml",
        "kind",
        "makes_temporary",
        "may_be_one_row",
        "may_insert",
        "of_one_row",
        "returning",
        "run",
        "several",
        "sql",
        "star",
        "text",
        "verb",
        "version",
    )

    def __init__(self, sql: str) -> None:
        self.sql = sql
        lead = _LEAD.match(sql)
        verb = lead[1].upper() if lead else ""
        rest = sql[lead.end() :].strip() if lead else sql
        self.verb = verb
        self.kind = _BY_VERB.get(verb, Kind.OTHER)
        if self.kind is Kind.NOTHING and rest:
            self.kind = Kind.OTHER  # text that begins with no word: let SQLite say what is wrong
        main_verb = verb
        if verb == "WITH":
            main_verb = _verb_after_with(sql)
            self.kind = _BY_VERB.get(main_verb, Kind.OTHER)
        elif verb == "ROLLBACK" and any(token.text.upper() == "TO" for token in tokens(sql)):
            self.kind = Kind.ROLLBACK_TO
        if self.kind is Kind.READ and _SIDE_EFFECT.search(sql):
            self.kind = Kind.WRITE
        self.counters = self.kind is Kind.READ and _COUNTER.search(sql) is not None
        self.star = "*" in sql and "*" in _COUNT_STAR.sub("", sql)
        self.makes_temporary = self.kind is Kind.SCHEMA and verb == "CREATE" and _TEMPORARY.search(sql) is not None
        self.returning = main_verb in _DML and "RETURNING" in sql.upper() and _has_word(sql, "RETURNING")
        self._placeholders: tuple[str, ...] | None = None
        self.run: Callable[..., None] | None = None  # how driver.connection runs it
        self.is_dml = verb in _DML  # sqlite3 counts the rows by the first word, so not after WITH
        self.changes_rows = main_verb in _DML
        self.may_insert = main_verb in ("INSERT", "REPLACE")
        self.of_one_row = verb == "INSERT" and _INSERT_OF_ONE_ROW.fullmatch(sql) is not None
        # What driver.rows has found out about the result:
        self.columns: tuple[str, ...] | None = None
        self.exact = False  # the names are those of a row, not as the text writes them
        self.distinct = True  # no two columns of one name
        self.text = sql  # what is sent for it
        self.version: str | None = None  # of the schema that the columns are of, where that matters
        self.body, self.several = _first_statement(sql) if _MARKS.search(sql) and verb != "CREATE" else (sql, False)
        if self.kind is Kind.BEGIN:
            words = [token.text.upper() for token in tokens(self.body)]
            if len(words) == 1 or words[1] == "TRANSACTION":
                self.text = "BEGIN IMMEDIATE"  # see Connection._run_begin
        self.may_be_one_row = self.body.endswith("LIMIT ? OFFSET ?")

    @property
    def placeholders(self) -> tuple[str, ...]:
        """The placeholders in the order of SQLite's parameter numbers: '?', ':name', ..."""
        if self._placeholders is None:
            self._placeholders = _placeholders(self.sql)
        return self._placeholders

    def with_counters(self, values: dict[str, int]) -> str:
        """The text with last_insert_rowid(), changes() and total_changes() replaced by this connection's values."""
        return _COUNTER.sub(lambda match: str(values[match[1].lower()]), self.sql)


_KNOWN: dict[str, Statement] = {}
_MOST_KNOWN = 2000


def statement_of(sql: str) -> Statement:
    """The `Statement` of a text, from memory when it was seen before."""
    known = _KNOWN.get(sql)
    if known is None:
        if not isinstance(sql, str):
            raise TypeError(f"execute() argument 1 must be str, not {type(sql).__name__}")
        if "\0" in sql:
            raise sqlite3.ProgrammingError("the query contains a null character")
        known = Statement(sql)
        if len(_KNOWN) >= _MOST_KNOWN:
            _KNOWN.clear()
        _KNOWN[sql] = known
    return known


def savepoint_name(statement: Statement) -> str:
    """The savepoint that SAVEPOINT, RELEASE or ROLLBACK TO names, as SQLite compares it."""
    name = ""
    for token in tokens(statement.body):
        if token.text != ";":
            name = token.text
    if name[:1] in _QUOTES:
        name = name[1:-1].replace(name[-1] * 2, name[-1])
    return name.lower()


def split_script(script: str) -> Iterator[str]:
    """The statements of a script, one by one; the semicolons inside a trigger do not end it."""
    start = 0
    empty = True
    for token in tokens(script):
        if token.text != ";":
            empty = False
        elif empty:
            start = token.end
        elif sqlite3.complete_statement(script[start : token.end]):
            yield script[start : token.end]
            start, empty = token.end, True
    if not empty:
        yield script[start:]


def _verb_after_with(sql: str) -> str:
    for token in tokens(sql):
        if token.depth == 0 and token.kind == "word":
            word = token.text.upper()
            if word in _DML or word in ("SELECT", "VALUES"):
                return word
    return "WITH"


def _has_word(sql: str, word: str) -> bool:
    return any(token.depth == 0 and token.kind == "word" and token.text.upper() == word for token in tokens(sql))


def _first_statement(sql: str) -> tuple[str, bool]:
    """The first statement without comments and semicolons around it, and whether something follows behind it."""
    start = end = None
    closed = False
    for token in tokens(sql):
        if token.text != ";":
            if closed:
                return sql[start:end], True
            start = token.start if start is None else start
            end = token.end
        elif closed:
            return sql[start:end], True
        elif start is not None:
            closed = True
    return sql[start:end] if end else "", False


def _placeholders(sql: str) -> tuple[str, ...]:
    found: list[str] = []
    for token in tokens(sql):
        if token.kind != "parameter":
            continue
        if token.text == "?":
            found.append("?")
        elif token.text[0] == "?":
            number = int(token.text[1:])
            found.extend("?" for _ in range(number - len(found)))
            if found[number - 1] == "?":
                found[number - 1] = token.text
        elif token.text not in found:
            found.append(token.text)
    return tuple(found)
