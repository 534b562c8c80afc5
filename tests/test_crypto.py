"""Encrypted values and columns: what other programs write and read, what tampering does, and where plaintext never goes."""

# ruff: noqa: N803, S105, S106  (models as fixtures; passwords of no use)

import base64
import copy
import json
import logging
import pickle
import shutil
import subprocess
import sys

import peewee
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peewee_honker import EventBus
from peewee_honker.schemas import create_insert_schema, create_select_schema
from peewee_honker.signals import Model
from peewee_honker.storage import StorageError
from peewee_honker.storage.crypto import DecryptionError, Keys, decrypt, encrypt, generate_encryption_key
from peewee_honker.storage.encrypted import EncryptedField, Secret, rotate_keys
from tests.support import outside
from tests.support.laws import examples

# Made by this program, `node -e "$NODE" < values.json`; a test runs it again where Node is.
NODE = """
const crypto = require("crypto");
const made = JSON.parse(require("fs").readFileSync(0)).map(([text, password, context, value]) => {
  const [salt, iv] = [value.salt, value.iv].map((part) => Buffer.from(part, "base64"));
  const key = crypto.pbkdf2Sync(password, salt, { 1: 100000, 2: 200000 }[value.keyVersion], 32, "sha256");
  const cipher = crypto.createCipheriv("aes-256-gcm", key, iv);
  if (context) cipher.setAAD(Buffer.from(context));
  return Buffer.concat([cipher.update(text, "utf8"), cipher.final(), cipher.getAuthTag()]).toString("base64");
});
console.log(JSON.stringify(made));
"""
KNOWN = [
    (
        "attack at dawn",
        "correct horse battery staple",
        "",
        {
            "keyVersion": 1,
            "salt": "AAECAwQFBgcICQoLDA0ODw==",
            "iv": "EBESExQVFhcYGRob",
            "data": "VseHlwrSNpXjyiseSg17at+0VXSReoua1eyMnQ7C",
        },
    ),
    (
        "grüße, \U0001f512",
        "pässwörd",
        "",
        {
            "keyVersion": 2,
            "salt": "/+7dzLuqmYh3ZlVEMyIRAA==",
            "iv": "oKGio6Slpqeoqaqr",
            "data": "mUDAKUtJLP9lEfEdlzozJQfF7yWQcMfkuInJ7js=",
        },
    ),
    (
        "",
        "k",
        "user.token:7",
        {
            "keyVersion": 2,
            "salt": "AAAAAAAAAAAAAAAAAAAAAA==",
            "iv": "AAAAAAAAAAAAAAAA",
            "data": "I+Nphuk/Shw8SQXSixNaZQ==",
        },
    ),
]
KEYS = Keys("first")  # derives one key for all the tests here


@pytest.mark.parametrize(("text", "password", "context", "value"), KNOWN)
def test_what_another_program_has_encrypted_is_decrypted(text, password, context, value):
    assert decrypt(value, password, context=context) == text


@pytest.mark.skipif(not shutil.which("node"), reason="needs Node")
def test_node_encrypts_to_the_same_bytes():
    ours = [
        ("grüße", "a password", context, encrypt("grüße", "a password", context=context)) for context in ("", "user.token")
    ]
    values = [*KNOWN, *ours, ("", "k", "", encrypt("", "k", version=1))]
    done = subprocess.run(
        ["node", "-e", NODE], input=json.dumps(values), capture_output=True, text=True, timeout=20, check=True
    )
    assert json.loads(done.stdout) == [value["data"] for *_, value in values]


def test_a_value_has_the_form_that_other_programs_read():
    value = encrypt("attack at dawn", "correct horse battery staple", version=1)
    assert list(value) == ["keyVersion", "salt", "iv", "data"]
    assert [len(value[name]) for name in ("salt", "iv", "data")] == [24, 16, 40]
    assert json.loads(json.dumps(value)) == value


@settings(max_examples=examples(50), deadline=None)
@given(st.text(), st.text(st.characters(codec="utf-8")))
def test_what_is_encrypted_is_decrypted_in_its_context(text, context):
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    value = KEYS.encrypt(text, context=context)
    assert KEYS.decrypt(value, context=context) == text
    with pytest.raises(DecryptionError):
        KEYS.decrypt(value, context=f"{context}x")


def test_the_same_text_is_never_encrypted_alike():
    values = [KEYS.encrypt("a") for _ in range(100)]
    assert len({value["iv"] for value in values}) == len({value["data"] for value in values}) == 100


VALUE = KEYS.encrypt("attack at dawn")


@settings(max_examples=examples(200), deadline=None)
@given(st.sampled_from(["salt", "iv", "data"]), st.data())
def test_a_value_that_was_changed_is_not_decrypted(name, data):
    text = VALUE[name]
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/= \n"))
    changed = text[:place] + other + text[place + 1 :]
    if name == "salt":  # each new salt costs a derivation
        changed = changed[:8]
    if changed != text:
        with pytest.raises(DecryptionError):
            KEYS.decrypt({**VALUE, name: changed})


@pytest.mark.parametrize(("name", "places"), [("iv", range(12)), ("data", range(30)), ("salt", (0, 7, 15))])
def test_no_byte_can_be_changed(name, places):
    for place in places:  # of the salt only some: each takes a derivation
        changed = bytearray(base64.b64decode(VALUE[name]))
        changed[place] ^= 1
        with pytest.raises(DecryptionError):
            KEYS.decrypt({**VALUE, name: base64.b64encode(changed).decode()})


@pytest.mark.parametrize(
    "value",
    [
        {**VALUE, "keyVersion": 1},
        {**VALUE, "keyVersion": 3},
        {**VALUE, "keyVersion": True},
        {**VALUE, "keyVersion": "2"},
        {**VALUE, "data": VALUE["data"][:20]},
        {**VALUE, "data": ""},
        {**VALUE, "data": None},
        {**VALUE, "iv": "AAAA"},
        {**VALUE, "more": 1},
        {"keyVersion": 2},
        {},
        [],
        None,
        "text",
    ],
)
def test_whatever_is_wrong_the_error_says_the_same(value):
    with pytest.raises(DecryptionError) as found:
        KEYS.decrypt(value)
    assert str(found.value) == "the value cannot be decrypted"
    assert found.value.__cause__ is None


def test_a_wrong_password_is_the_same_error_too():
    with pytest.raises(DecryptionError, match=r"^the value cannot be decrypted$"):
        decrypt(VALUE, "second")


def test_generated_keys_are_32_random_bytes():
    keys = {generate_encryption_key() for _ in range(10)}
    assert len(keys) == 10
    assert {len(key) for key in keys} == {44}


@pytest.mark.parametrize("password", ["", None])
def test_an_empty_password_is_refused(password):
    with pytest.raises(ValueError, match="not empty"):
        encrypt("a", password)


@pytest.mark.parametrize(
    "wrong", [{"password": b"bytes"}, {"password": "a", "before": "old"}, {"password": "a", "before": [7]}]
)
def test_passwords_are_texts(wrong):
    with pytest.raises(TypeError):
        Keys(**wrong)


def test_a_text_that_cannot_be_encrypted_is_not_in_the_error():
    with pytest.raises(ValueError, match="UTF-8 cannot hold") as found:
        KEYS.encrypt("s3cret\ud800")
    assert type(found.value) is ValueError  # a UnicodeEncodeError holds the text
    assert found.value.__suppress_context__


def test_keys_do_not_show_their_passwords():
    keys = Keys("hush-1", before=["hush-2"])
    assert "hush" not in f"{keys!r}{keys}"
    with pytest.raises(TypeError):
        pickle.dumps(keys)


def test_without_cryptography_the_extra_is_named():
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from peewee_honker.storage.crypto import encrypt\n"
        "try: encrypt('a', 'b')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout == "StorageError encrypting needs cryptography: pip install 'peewee-honker[crypto]'\n"


# Columns


@pytest.fixture
def User(db):
    class User(Model):
        name = peewee.CharField()
        token = EncryptedField(KEYS, null=True)

        class Meta:
            database = db

    db.create_tables([User])
    return User


def test_a_column_holds_what_is_encrypted_and_gives_what_was_put_in(User, path):
    made = User.create(name="Ada", token="s3cret")
    assert made.token.reveal() == "s3cret"
    (stored,) = outside.rows(path, "SELECT token FROM user")[0]
    assert set(json.loads(stored)) == {"keyVersion", "salt", "iv", "data"}
    assert "s3cret" not in stored
    read = User.get()
    assert read.token.reveal() == "s3cret"
    User.update(token="other").execute()
    assert User.get().token.reveal() == "other"
    User.insert_many([{"name": "Eve", "token": None}, {"name": "Bob", "token": Secret("b")}]).execute()
    assert [user.token and user.token.reveal() for user in User.select().order_by(User.id)] == ["other", None, "b"]
    assert User.select().where(User.token.is_null()).count() == User.select().where(User.token == None).count() == 1  # noqa: E711


def test_saving_a_row_that_was_read_does_not_encrypt_anew(User, path):
    User.create(name="Ada", token="s3cret")
    before = outside.rows(path, "SELECT token FROM user")
    user = User.get()
    user.name = "Grace"
    user.save()
    assert outside.rows(path, "SELECT token FROM user") == before


def test_a_value_is_of_no_use_in_another_column_or_table(db, User):
    class Admin(Model):
        key = EncryptedField(KEYS)

        class Meta:
            database = db

    db.create_tables([Admin])
    User.create(name="Ada", token="s3cret")
    db.execute_sql("INSERT INTO admin (key) SELECT token FROM user")
    with pytest.raises(DecryptionError):
        Admin.get().key.reveal()
    Admin.create(key=User.get().token)  # by the program that may: encrypted for its new place
    assert Admin.get(Admin.id == 2).key.reveal() == "s3cret"


@pytest.mark.parametrize("stored", ["", "x", "{}", "null", '{"keyVersion": 2}', "[1]", "[" * 100_000])
def test_a_column_that_somebody_wrote_to_is_the_same_error(db, User, stored):
    User.create(name="Ada")
    db.execute_sql("UPDATE user SET token = ?", (stored,))
    with pytest.raises(DecryptionError, match=r"^the value cannot be decrypted$"):
        User.get().token.reveal()


def test_a_query_that_would_compare_says_so(User):
    comparisons = [
        lambda: User.token == "a",
        lambda: User.token != "a",
        lambda: User.token < "a",
        lambda: User.token.in_(["a"]),
        lambda: User.token.contains("a"),
        lambda: User.get(token="a"),
        lambda: User.alias().token == "a",
        lambda: User.token >> "a",
        lambda: User.token.concat("a"),
        lambda: User.token + "a",
        lambda: "a" + User.token,
    ]
    for compare in comparisons:
        with pytest.raises(StorageError, match="token is encrypted, and no query can compare it"):
            compare()
    with pytest.raises(TypeError, match="token takes text"):
        User.create(name="Ada", token=7)


def test_a_default_is_a_secret_too(db):
    class Robot(Model):
        token = EncryptedField(KEYS, default=lambda: "s3cret")
        pin = EncryptedField(KEYS, default="0000")

        class Meta:
            database = db

    db.create_tables([Robot])
    robot = Robot()
    assert f"{robot.token} {robot.pin}" == "*** ***"
    robot.save()
    Robot.insert().execute()
    assert [(row.token.reveal(), row.pin.reveal()) for row in Robot.select()] == [("s3cret", "0000")] * 2


def test_a_field_is_inherited_and_bound_to_the_new_table(db, User):
    User.create(name="Ada", token="s3cret")

    class Guest(User):
        class Meta:
            table_name = "guest"

    db.create_tables([Guest])
    Guest.create(name="Eve", token="other")
    assert Guest.get().token.reveal() == "other"
    db.execute_sql("UPDATE guest SET token = (SELECT token FROM user)")
    with pytest.raises(DecryptionError):
        Guest.get().token.reveal()


@pytest.mark.parametrize("option", ["unique", "index", "primary_key"])
def test_an_index_that_finds_nothing_is_refused(option):
    with pytest.raises(ValueError, match="keyed hash"):
        EncryptedField(KEYS, **{option: True})


def test_many_rows_are_written_at_once(User):
    User.bulk_create([User(name="a", token="1"), User(name="b", token="2")])
    users = list(User.select().order_by(User.id))
    users[0].token = "3"
    User.bulk_update(users, [User.token])
    assert [user.token.reveal() for user in User.select().order_by(User.id)] == ["3", "2"]


def test_schemas_take_text_alone_and_a_select_schema_loads_what_it_dumps(db):
    class Robot(Model):
        token = EncryptedField(KEYS)

        class Meta:
            database = db

    db.create_tables([Robot])
    new = create_insert_schema(Robot)()
    assert new.validate({}) == {"token": ["Missing data for required field."]}
    for wrong in (b"bytes", 7, "\ud800"):
        assert set(new.validate({"token": wrong})) == {"token"}
    Robot.create(**new.load({"token": "s3cret"}))
    select = create_select_schema(Robot)()
    assert select.load(select.dump(Robot.get())) == {"id": 1}


def test_a_secret_does_not_show_itself():
    secret = Secret("s3cret")
    assert "s3cret" not in f"{secret} {secret!r} {[secret]}"
    for leak in (pickle.dumps, copy.deepcopy, json.dumps):
        with pytest.raises(TypeError):
            leak(secret)


def test_plaintext_is_in_no_event_no_dump_and_no_log(db, User, path, caplog):
    caplog.set_level(logging.DEBUG)
    bus = EventBus(db)
    bus.bridge(User, changes=True)
    made = User.create(name="Ada", token="s3cret")
    made.token = "s3cret-2"
    made.save()
    made.delete_instance()
    bus.capture(User, old_values=True)
    User.create(name="Eve", token="s3cret-3")
    User.update(token="s3cret-4").execute()
    User.delete().execute()
    events = [json.loads(text) for (text,) in outside.rows(path, "SELECT payload FROM _honker_notifications")]
    assert len(events) == 5
    assert all("token" not in event["payload"] and "token" not in (event.get("changes") or {}) for event in events)
    assert "token" not in create_select_schema(User)().dump(made)
    assert create_insert_schema(User)().load({"name": "a", "token": "b"}) == {"name": "a", "token": "b"}
    assert "s3cret" not in caplog.text
    with open(path, "rb") as file, open(f"{path}-wal", "rb") as wal:
        assert b"s3cret" not in file.read() + wal.read()


# Rotation


def test_keys_are_rotated_in_batches_and_the_rest_is_passed_over(db, path):
    old, new = Keys("old", version=1), Keys("new", before=["old"])
    using = [old]

    class User(Model):
        token = EncryptedField(lambda: using[0], null=True)

        class Meta:
            database = db

    db.create_tables([User])
    for number in range(25):
        User.create(token=None if number == 3 else f"t{number}")
    User.token._keys = new
    User.create(token="t25")
    db.execute_sql("UPDATE user SET token = '{}' WHERE id = 6")
    told = rotate_keys(User.token, dry_run=True)
    assert (told.checked, told.rotated, told.failed) == (25, 23, [6])
    before = outside.rows(path, "SELECT token FROM user")
    done = rotate_keys(User.token, batch=10)
    assert (done.checked, done.rotated, done.failed) == (25, 23, [6])
    after = outside.rows(path, "SELECT token FROM user")
    assert [a != b for a, b in zip(before, after, strict=True)].count(True) == 23
    again = rotate_keys(User.token)
    assert (again.checked, again.rotated) == (25, 0)
    only_new = Keys("new")
    User.token._keys = only_new
    rows = User.select().where(User.token.is_null(False), User.id != 6).order_by(User.id)
    assert [row.token.reveal() for row in rows] == [f"t{number}" for number in range(26) if number not in (3, 5)]


def test_a_value_that_changes_during_the_rotation_is_not_overwritten(db):
    keys = Keys("new", before=["old"])

    class User(Model):
        token = EncryptedField(Keys("old"))

        class Meta:
            database = db

    db.create_tables([User])
    User.create(token="before")

    class Changing(Keys):
        def is_current(self, value, *, context=""):
            User.update(token="meanwhile").execute()
            return super().is_current(value, context=context)

    User.token._keys = Changing("new", before=["old"])
    assert rotate_keys(User.token).rotated == 0
    User.token._keys = keys
    assert User.get().token.reveal() == "meanwhile"
    with pytest.raises(TypeError, match="no EncryptedField"):
        rotate_keys(User.id)
