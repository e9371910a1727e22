"""Named methods of the literature, each a function of a few lines that returns a policy.

Nothing here decodes or trains: a recipe only writes a formula down, and everything that works on a policy works on its
result. Where a paper's method has more parts than its formula, the docstring says which parts are left out. Strengths
and weights are numbers or knobs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import mul

from trimtab.errors import ConfigError
from trimtab.policies.base import Policy
from trimtab.policies.knob import Scalar
from trimtab.policies.mixture import mix
from trimtab.policies.support import plausible, within


def ipa(base: Policy, adapter: Policy, strength: Scalar = 1.0) -> Policy:
    """Tailor a base with one trained adapter.

        pi(y | s)  is proportional to  base(y | s) * adapter(y | s)^strength

    Args:
        base: the frozen model.
        adapter: a policy trained through this product.
        strength: the adapter's exponent (alpha in the authors' code); 0 is the base bit for bit.

    Returns:
        The tailored policy; its reference is the base's.

    Raises:
        VocabularyError: the two speak different tokens.

    Example:
        >>> from trimtab.policies.toy import Table
        >>> base = Table.of({"": {"good": 0.4, "bad": 0.6}}, name="base")
        >>> adapter = Table.of({"": {"good": 0.9, "bad": 0.1}}, name="adapter")
        >>> ipa(base, adapter).next_log_probs(["good"]).exp()  # 0.36 : 0.06
        tensor([[0.8571, 0.1429]])

    Reference: Lu et al. (2023), Inference-Time Policy Adapters, EMNLP.

    Deviations: the paper's formula has no strength, its code has.
    """
    return base * adapter**strength


def anchored(base: Policy, adapter: Policy, untrained: Policy, strength: Scalar = 1.0) -> Policy:
    """Tailor a base with an adapter divided by what the adapter was before training.

        pi(y | s)  is proportional to  base(y | s) * (adapter(y | s) / untrained(y | s))^strength

    An adapter that has learned nothing cancels, so this starts at the base exactly, where the raw product of
    :func:`ipa` starts sharper than the base.

    Args:
        base: the frozen model.
        adapter: the trained adapter.
        untrained: the adapter's own weights before training, for a LoRA adapter the trunk without it. When that is
            the base too, the product flattens to base^(1 - strength) * adapter^strength.
        strength: exponent of the ratio; 0 is the base bit for bit.

    Returns:
        The tailored policy; its reference is the base's.

    Raises:
        VocabularyError: the policies speak different tokens.

    Example:
        >>> from trimtab.policies.toy import Table
        >>> base = Table.of({"": {"good": 0.4, "bad": 0.6}}, name="base")
        >>> untrained = Table.of({"": {"good": 0.5, "bad": 0.5}}, name="untrained")
        >>> adapter = Table.of({"": {"good": 0.75, "bad": 0.25}}, name="adapter")
        >>> anchored(base, adapter, untrained).next_log_probs(["good"]).exp()  # 0.4 * 1.5 : 0.6 * 0.5
        tensor([[0.6667, 0.3333]])

    Reference: the form of Mitchell et al. (2024), see :func:`eft`, applied to the adapters of Lu et al. (2023).

    Deviations: Lu et al. train and use the raw product.
    """
    return base * (adapter / untrained) ** strength


def eft(base: Policy, tuned: Policy, untuned: Policy, strength: Scalar = 1.0) -> Policy:
    """Emulate fine-tuning of a base by what fine-tuning did to another, usually smaller, model.

        pi(y | s)  is proportional to  base(y | s) * (tuned(y | s) / untuned(y | s))^strength

    The same operator as :func:`proxy_tuning` and :func:`anchored`; with base = untuned it is :func:`dera`.

    Args:
        base: the model to move.
        tuned: the fine-tuned model of the pair.
        untuned: the same model before fine-tuning.
        strength: exponent of the ratio (beta in the paper).

    Returns:
        The moved policy; its reference is the base's.

    Raises:
        VocabularyError: the policies speak different tokens.

    Example:
        >>> from trimtab.policies.toy import Table
        >>> base = Table.of({"": {"yes": 0.5, "no": 0.5}}, name="base")
        >>> tuned = Table.of({"": {"yes": 0.6, "no": 0.4}}, name="tuned")
        >>> untuned = Table.of({"": {"yes": 0.2, "no": 0.8}}, name="untuned")
        >>> eft(base, tuned, untuned).next_log_probs(["yes"]).exp()  # 0.5 * 3 : 0.5 * 0.5
        tensor([[0.8571, 0.1429]])

    Reference: Mitchell, Rafailov, Sharma, Finn, Manning (2024), An Emulator for Fine-Tuning Large Language Models using
    Small Language Models, ICLR.

    Deviations: none in the formula; top-p filtering of the result is left to decoding, or to ``within``.
    """
    return base * (tuned / untuned) ** strength


def proxy_tuning(base: Policy, expert: Policy, antiexpert: Policy, strength: Scalar = 1.0) -> Policy:
    """Tune a base by proxy: add the difference of a small tuned and a small untuned model.

        pi(y | s)  is proportional to  base(y | s) * (expert(y | s) / antiexpert(y | s))^strength

    The same operator as :func:`eft`, found independently.

    Args:
        base: the model to move.
        expert: the small tuned model.
        antiexpert: the small untuned model.
        strength: exponent of the ratio (alpha in the paper, 1 unless swept).

    Returns:
        The moved policy; its reference is the base's.

    Raises:
        VocabularyError: the policies speak different tokens.

    Example:
        >>> from trimtab.policies.toy import Table
        >>> base, expert, antiexpert = (Table.random(4, seed=seed, name=f"m{seed}") for seed in range(3))
        >>> proxy_tuning(base, expert, antiexpert, 2) == eft(base, expert, antiexpert, 2)
        True

    Reference: Liu, Han, Wang, Tsvetkov, Choi, Smith (2024), Tuning Language Models by Proxy, COLM.

    Deviations: the authors cut the expert's logits to the base's width; different tokens are refused here.
    """
    return eft(base, expert, antiexpert, strength)


def dera(reference: Policy, aligned: Policy, lam: Scalar) -> Policy:
    """Realign at decoding time: slide between a reference and its aligned version, or beyond.

        pi(y | s)  is proportional to  reference(y | s)^(1 - lam) * aligned(y | s)^lam

    Args:
        reference: the model before alignment.
        aligned: the model after alignment with KL coefficient beta.
        lam: 0 is the reference, 1 the aligned model, above 1 extrapolates; approximates alignment with beta / lam.

    Returns:
        The realigned policy; its reference is the reference's.

    Raises:
        VocabularyError: the two speak different tokens.

    Example:
        >>> from trimtab.policies.toy import Table
        >>> reference = Table.of({"": {"yes": 0.2, "no": 0.8}}, name="reference")
        >>> aligned = Table.of({"": {"yes": 0.5, "no": 0.5}}, name="aligned")
        >>> dera(reference, aligned, 2).next_log_probs(["yes"]).exp()  # 0.25 / 0.2 : 0.25 / 0.8
        tensor([[0.8000, 0.2000]])

    Reference: Liu et al. (2024), Decoding-time Realignment of Language Models, ICML.

    Deviations: none; as in the paper the mixture is taken token by token, which approximates the one of whole answers.
    """
    return reference ** (1.0 - lam) * aligned**lam


def contrastive(expert: Policy, amateur: Policy, alpha: float = 0.1, beta: Scalar | None = None) -> Policy:
    """Prefer what an expert says and an amateur does not, among the tokens the expert finds plausible.

        pi(y | s)  is proportional to  expert(y | s) / amateur(y | s)                    without beta
        pi(y | s)  is proportional to  expert(y | s)^(1 + beta) / amateur(y | s)^beta    with beta

    and 0 where expert(y | s) < alpha * max expert(. | s).

    Args:
        expert: the better model.
        amateur: the worse model.
        alpha: share of the expert's largest probability that makes a token plausible, above 0 and at most 1.
        beta: strength of the contrast in the second form; 0 is the expert on its plausible tokens.

    Returns:
        The contrasted policy; its reference is the expert's.

    Raises:
        ConfigError: ``alpha`` is out of its range.
        VocabularyError: the two speak different tokens.

    Example:
        >>> from trimtab.policies.toy import Table
        >>> expert = Table.of({"": {"a": 0.6, "b": 0.36, "c": 0.04}}, name="expert")
        >>> amateur = Table.of({"": {"a": 0.8, "b": 0.12, "c": 0.08}}, name="amateur")
        >>> contrastive(expert, amateur).next_log_probs(["a"]).exp()  # 0.75 : 3, c is not plausible
        tensor([[0.2000, 0.8000, 0.0000]])

    Reference: Li et al. (2023), Contrastive Decoding, ACL; with beta, O'Brien and Lewis (2023), Contrastive Decoding
    Improves Reasoning in Large Language Models.

    Deviations: Li et al. search with beams for the largest score, here the scores make a distribution. The amateur's
    temperature of the first paper is not there; ``amateur ** (1 / temperature)`` gives the same distribution.
    """
    contrast = expert / amateur if beta is None else expert ** (1.0 + beta) / amateur**beta
    return plausible(contrast, alpha, of=expert)


def cfg(conditional: Policy, unconditional: Policy, scale: Scalar) -> Policy:
    """Follow a prompt more than the model would by itself.

        pi(y | s)  is proportional to  unconditional(y | s) * (conditional(y | s) / unconditional(y | s))^scale

    Args:
        conditional: the model seeing the prompt.
        unconditional: the same model without the prompt, or seeing a negative prompt.
        scale: gamma in the paper; 1 is the conditional model, 0 the unconditional one.

    Returns:
        The guided policy; its reference is the conditional model's, which is what plain decoding would use.

    Raises:
        VocabularyError: the two speak different tokens.

    Example:
        >>> from trimtab.policies.toy import Table
        >>> conditional = Table.of({"": {"yes": 0.5, "no": 0.5}}, name="conditional")
        >>> unconditional = Table.of({"": {"yes": 0.2, "no": 0.8}}, name="unconditional")
        >>> cfg(conditional, unconditional, 2).next_log_probs(["yes"]).exp()  # 0.25 / 0.2 : 0.25 / 0.8
        tensor([[0.8000, 0.2000]])

    Reference: Sanchez et al. (2024), Stay on Topic with Classifier-Free Guidance, ICML.

    Deviations: none in the formula; what the unconditional model sees is its prompt view.
    """
    return conditional**scale * unconditional ** (1.0 - scale)


def dexperts(base: Policy, expert: Policy, anti: Policy, alpha: Scalar = 2.0, top_p: float = 0.9) -> Policy:
    """Steer a base, cut to its nucleus, by an expert and an anti-expert of an attribute.

        pi(y | s)  is proportional to  within(base, top_p)(y | s) * (expert(y | s) / anti(y | s))^alpha

    Args:
        base: the model to steer.
        expert: a model of texts with the attribute.
        anti: a model of texts without it.
        alpha: strength of the steering; the paper has 2.0 for toxicity and 3.2 for sentiment, negative flips it.
        top_p: probability the base's nucleus holds at least, above 0 and at most 1.

    Returns:
        The steered policy; its reference is the base's, uncut.

    Raises:
        ConfigError: ``top_p`` is out of its range.
        VocabularyError: the policies speak different tokens.

    Example:
        >>> from trimtab.policies.toy import Table
        >>> base = Table.of({"": {"a": 0.5, "b": 0.45, "c": 0.05}}, name="base")
        >>> expert = Table.of({"": {"a": 0.4, "b": 0.2, "c": 0.4}}, name="expert")
        >>> anti = Table.of({"": {"a": 0.2, "b": 0.4, "c": 0.4}}, name="anti")
        >>> dexperts(base, expert, anti, 1).next_log_probs(["a"]).exp()  # 0.5 * 2 : 0.45 / 2, c is cut
        tensor([[0.8163, 0.1837, 0.0000]])

    Reference: Liu et al. (2021), DExperts, ACL.

    Deviations: a missing expert or anti-expert is not replaced by the base; pass the base for it.
    """
    return within(base, top_p) * (expert / anti) ** alpha


def mod(policies: Sequence[Policy], weights: Sequence[Scalar]) -> Policy:
    """Trade several objectives off by a geometric mean of models that were each tuned for one.

        pi(y | s)  is proportional to  prod_i policies_i(y | s)^weights_i

    Args:
        policies: models tuned from one reference with a reverse-KL penalty, one for each objective.
        weights: one for each policy; in the paper they sum to 1, other sums sharpen or flatten.

    Returns:
        The trade-off; its reference is the first policy's.

    Raises:
        ConfigError: there are no policies, or not one weight for each.
        VocabularyError: the policies speak different tokens.

    Example:
        >>> from trimtab.policies.toy import Table
        >>> helpful = Table.of({"": {"yes": 0.9, "no": 0.1}}, name="helpful")
        >>> harmless = Table.of({"": {"yes": 0.2, "no": 0.8}}, name="harmless")
        >>> mod([helpful, harmless], [0.5, 0.5]).next_log_probs(["yes"]).exp()  # sqrt(0.18) : sqrt(0.08) = 3 : 2
        tensor([[0.6000, 0.4000]])

    Reference: Shi et al. (2024), Decoding-Time Language Model Alignment with Multiple Objectives, NeurIPS.

    Deviations: only the reverse-KL case; other f-divergences are not products.
    """
    if not policies:
        raise ConfigError(given="no policies", expected="at least one", hint="mod([helpful, harmless], [0.5, 0.5])")
    return reduce(mul, _weighted(policies, weights))


def genarm(base: Policy, reward_models: Sequence[Policy], weights: Sequence[Scalar]) -> Policy:
    """Guide a base with autoregressive reward models.

        pi(y | s)  is proportional to  base(y | s) * prod_i reward_models_i(y | s)^weights_i

    Args:
        base: the model to guide.
        reward_models: language models trained so that their log-probability is a reward, one for each objective.
        weights: one for each reward model (1 / beta in the paper).

    Returns:
        The guided policy; its reference is the base's.

    Raises:
        ConfigError: there is not one weight for each reward model.
        VocabularyError: the policies speak different tokens.

    Example:
        >>> from trimtab.policies.toy import Table
        >>> base = Table.of({"": {"yes": 0.5, "no": 0.5}}, name="base")
        >>> kind = Table.of({"": {"yes": 0.8, "no": 0.2}}, name="kind")
        >>> short = Table.of({"": {"yes": 0.2, "no": 0.8}}, name="short")
        >>> genarm(base, [kind, short], [2, 1]).next_log_probs(["yes"]).exp()  # 0.5 * 0.64 * 0.2 : 0.5 * 0.04 * 0.8
        tensor([[0.8000, 0.2000]])

    Reference: Xu et al. (2025), GenARM, ICLR.

    Deviations: the authors' script also sets the sampling temperature to 1 / (1 + weight); here it is left alone.
    """
    return reduce(mul, _weighted(reward_models, weights), base)


def detoxigen(generator: Policy, detoxifier: Policy, alpha: Scalar, top_p: float = 0.9) -> Policy:
    """Take away from a generator, in probability space, what a toxic version of it would say.

        pi(y | s)  is proportional to  max(0, (1 + alpha) * generator(y | s) - alpha * detoxifier(y | s))

    inside the generator's nucleus, and 0 outside.

    Args:
        generator: the model to clean.
        detoxifier: the same model made toxic, in the paper by a soft prompt.
        alpha: how much is taken away; 0 is the generator in its nucleus.
        top_p: probability the generator's nucleus holds at least, above 0 and at most 1.

    Returns:
        The cleaned policy; its reference is the generator's, uncut.

    Raises:
        ConfigError: ``top_p`` is out of its range.
        VocabularyError: the two speak different tokens.
        PolicyError: while decoding, when nothing positive remains in the nucleus.

    Example:
        >>> from trimtab.policies.toy import Table
        >>> generator = Table.of({"": {"kind": 0.5, "rude": 0.45, "odd": 0.05}}, name="generator")
        >>> toxic = Table.of({"": {"kind": 0.1, "rude": 0.8, "odd": 0.1}}, name="toxic")
        >>> detoxigen(generator, toxic, 1).next_log_probs(["kind"]).exp()  # 0.9 : 0.1, odd is cut
        tensor([[0.9000, 0.1000, 0.0000]])

    Reference: Niu et al. (2024), Parameter-Efficient Detoxification with Contrastive Decoding.

    Deviations: none in the formula; the soft prompt's training is not part of it.
    """
    return within(mix((1.0 + alpha, generator), (-1.0 * alpha, detoxifier)), top_p, of=generator)


def _weighted(policies: Sequence[Policy], weights: Sequence[Scalar]) -> list[Policy]:
    """Raise each policy to its weight."""
    if len(policies) != len(weights):
        raise ConfigError(
            given=f"{len(policies)} policies and {len(weights)} weights",
            expected="one weight for each policy",
            hint="make the two lists equally long",
        )
    return [policy**weight for policy, weight in zip(policies, weights, strict=True)]
