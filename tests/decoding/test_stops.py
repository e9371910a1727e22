"""Stop texts: where they end rows, and that no token that completes one is ever passed over."""

import itertools
import random

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from trimtab.decoding.stops import StopTexts, completing
from trimtab.policies.toy import Table
from trimtab.policies.vocabulary import Vocabulary

TOY = Vocabulary.of_pieces(["a", "ab", "b", "bca", "c", "<end>"], end="<end>")


@pytest.fixture(scope="module")
def words(tiny_lm_folder):
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm_folder)
    return Vocabulary.of_tokenizer(tokenizer, columns=22, end_ids=frozenset([1]))


@pytest.fixture(scope="module")
def single_bytes():
    """Return a vocabulary of the 256 bytes: most characters are several tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({character: i for i, character in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    return Vocabulary.of_tokenizer(tokenizer, columns=256, end_ids=frozenset())


def brute(vocabulary, texts, tokens, minimum=0):
    """Return after how many tokens a stop text is there, by reading everything after every token."""
    for length in range(minimum + 1, len(tokens) + 1):
        if any(text in vocabulary.decode(tokens[minimum:length]) for text in texts):
            return length
    return None


def decoded(vocabulary, texts, tokens, minimum=0):
    """Return the same the way a pool does: token by token, looking only where one could complete a stop text."""
    stops, could = StopTexts(vocabulary), completing(vocabulary, texts)
    for length in range(1, len(tokens) + 1):
        if could[tokens[length - 1]]:
            found = stops.length(texts, tokens[:length], length - 1, minimum)
            if found is not None:
                return found
    return None


TOY_TEXTS = ["a", "ab", "b c", "c a", "abab", "ca b", " ", "b ", "a ab ", " c", "bc", "never", "a b c"]


@pytest.mark.parametrize("text", TOY_TEXTS)
@pytest.mark.parametrize("minimum", [0, 2])
def test_no_stop_text_of_a_toy_vocabulary_is_missed(text, minimum):
    for length in (1, 2, 3, 4):
        for tokens in itertools.product(range(TOY.size), repeat=length):
            assert decoded(TOY, (text,), list(tokens), minimum) == brute(TOY, (text,), list(tokens), minimum)


WORD_TEXTS = ["w1", "1", "w1 w2", "1 w", "2 w3", "w2 ", " ", "9", "w19 w0 w", "w1 w1 w1"]


@pytest.mark.parametrize("text", WORD_TEXTS)
def test_no_stop_text_of_a_tokenizer_is_missed(words, text):
    chosen = [words.encode(f"w{i}")[0] for i in (0, 1, 2, 3, 19)] + [0, 1]  # <unk> and <end>, which decoding drops
    for tokens in itertools.product(chosen, repeat=3):
        assert decoded(words, (text,), list(tokens)) == brute(words, (text,), list(tokens))


@pytest.mark.parametrize("text", ["é", "né", "日", "日本", "a日", "👍", "👍 ", "no"])
def test_no_stop_text_of_characters_made_of_several_tokens_is_missed(single_bytes, text):
    tail = random.Random(0)
    for before in ("", "na", "日日", "👍é", "bnaéno 日a"):
        tokens = [*single_bytes.encode(before + text + "b!"), tail.randrange(256)]
        assert decoded(single_bytes, (text,), tokens) == brute(single_bytes, (text,), tokens) is not None


@pytest.mark.parametrize("text", ["日本語の文章です", "👍👍👍👍"])
def test_a_long_stop_text_of_characters_made_of_several_tokens_is_found(single_bytes, text):
    # 8 characters of 3 tokens, 4 of 4: more tokens than characters by 16 and by 12
    tokens = single_bytes.encode("so " + text)
    assert decoded(single_bytes, (text,), tokens) == len(tokens)


def test_tokens_without_text_do_not_hide_a_stop_text(words):
    one, two = words.encode("w1 w2")
    tokens = [one, *[0] * 20, two]  # decoding drops <unk>, so the text is "w1 w2"
    assert words.decode(tokens) == "w1 w2" and decoded(words, ("w1 w2",), tokens) == len(tokens)


@pytest.mark.parametrize("seed", range(5))
def test_long_rows_and_several_stop_texts(seed):
    chance = random.Random(seed)
    for _ in range(40):
        texts = tuple(chance.sample(["abab", "b c b", "c c c", "bca ab", "a a a a", "c "], 2))
        tokens = [chance.randrange(TOY.size - 1) for _ in range(30)]
        minimum = chance.choice([0, 5, 29])
        assert decoded(TOY, texts, tokens, minimum) == brute(TOY, texts, tokens, minimum)


def test_a_block_of_several_tokens_is_looked_at_from_its_first():
    tokens = [0, 2, 4, 0]  # a b c a; the stop ends after the third token, in the middle of a block of three
    stops = StopTexts(TOY)
    assert stops.length(("b c",), tokens, 1, 0) == 3
    assert stops.length(("b c",), tokens, 1, 2) is None  # b is before the minimum


def test_tokens_are_looked_up_in_their_own_rows_group():
    stops = StopTexts(TOY)
    tokens = torch.tensor([[0], [0], [4], [4]])
    assert stops.group(()) == 0 and stops.may_stop(torch.tensor([0] * 4), tokens) is None
    b, c = stops.group(("ab", "b")), stops.group(("c",))
    assert len({0, b, c}) == 3 and stops.group(("c",)) == c
    groups = torch.tensor([b, c, b, c])
    assert stops.may_stop(groups, tokens).tolist() == [[False], [False], [False], [True]]
    assert not stops.may_stop(torch.tensor([0] * 4), tokens).any()
    assert stops.may_stop(groups[:1], torch.tensor([[2, 0, 1, 3]])).tolist() == [[True, False, True, True]]


def test_a_token_completes_a_text_only_with_its_last_character():
    # a, ab, b, bca, c, <end>: "<end>" has no b, c or a
    assert completing(TOY, ("xb",)).tolist() == [False, True, True, True, False, False]
    assert completing(TOY, ("c", "a")).tolist() == [True, True, False, True, True, False]
    assert completing(TOY, ("c ",)).all()


CHAIN = Table.of({"": {"ab": 1.0, "bca": 0, "c": 0, "d": 0}, "ab": {"bca": 1.0}, "bca": {"c": 1.0}, "c": {"ab": 1.0}})
"""After ab comes bca, then c, then ab again."""


@pytest.mark.parametrize(
    ("stop", "minimum", "text", "tokens"),
    [
        ("bc", 0, "", 1),  # inside the first token
        ("a c", 0, "bc", 2),  # spans two tokens
        ("ca c a", 0, "b", 3),  # starts inside a token and ends inside one, three tokens long
        ("bca", 1, "bca c ab ", 4),  # not before the minimum
        ("bca c", 1, "bca c ab ", 5),  # its first token is before the minimum
        ("c ", 0, "bca ", 3),  # ends in a space, which is there once the next token is
        ("d", 0, "bca c ab bca c ab bca", 7),
    ],
)
def test_where_an_answer_is_cut(stop, minimum, text, tokens):
    (answer,) = CHAIN.generate("ab", stop=[stop], min_new_tokens=minimum, max_new_tokens=7, seed=0)
    assert (answer.text, len(answer.token_ids)) == (text, tokens)
    assert answer.finish_reason == ("length" if stop == "d" else "stop")


def test_the_earliest_of_several_stop_texts_cuts():
    (answer,) = CHAIN.generate("ab", stop=["c", "bca", "ab"], seed=0)
    assert (answer.text, len(answer.token_ids)) == ("", 1)


def test_a_stop_text_at_the_last_token_counts_as_a_stop():
    (answer,) = CHAIN.generate("ab", stop=["ab"], max_new_tokens=3, seed=0)
    assert (answer.text, answer.finish_reason) == ("bca c ", "stop")
