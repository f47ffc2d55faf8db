import pytest

from srgan_dist.data.manifest import parse_manifest
from srgan_dist.data.sample import parse_record
from srgan_dist.utils.errors import UserError
from srgan_dist.utils.json_text import load_json

LONE = r'{"rock": "\ud800"}'


@pytest.mark.parametrize("kind", [str, str.encode])
def test_json_is_read_but_for_lone_surrogates(kind):
    assert load_json(kind(r'{"a": ["\ud83e\udea8", "\\ud800", "\u00e9", 1.5, null]}')) == {
        "a": ["\U0001faa8", r"\ud800", "\u00e9", 1.5, None]
    }
    for text in (LONE, r'{"\uDFFF": 1}', r'["\udc00\ud800"]'):
        with pytest.raises(ValueError, match="surrogates not allowed"):
            load_json(kind(text))


@pytest.mark.parametrize("read", [lambda content: parse_manifest(content, "manifest.json"), parse_record])
def test_files_with_lone_surrogates_are_refused(read):
    with pytest.raises(UserError, match="surrogates not allowed") as error:
        read(LONE.encode())
    str(error.value).encode()


@pytest.mark.parametrize("value", ["NaN", "-Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_refused_where_that_is_asked(value):
    assert isinstance(load_json(f'{{"a": {value}}}')["a"], float)
    with pytest.raises(ValueError, match="not JSON compliant"):
        load_json(f'{{"a": {value}}}', finite=True)
    with pytest.raises(UserError, match="manifest.json cannot be read: .*not JSON compliant"):
        parse_manifest(f'{{"options": {{"a": {value}}}}}'.encode(), "manifest.json")
