"""What words in a series' description mean, in the languages hospitals write them in.

Descriptions are free text: English, German, French, Italian, Spanish, Portuguese, Dutch,
Polish, Czech, Russian, Chinese and Japanese forms are known here. Underscores and hyphens
count as blanks; upper and lower case are the same.
"""

import re
import unicodedata

OTHER_KINDS = {
    "localiser": (
        r"loc|locali[sz]\w*|lokali\w*|scout|aah\w*|survey|3 ?plane?|topogram\w*|reperage|"
        r"smartbrain"
    ),
    "subtraction": r"sub|subtr\w*|soustr\w*|sottr\w*|sustr\w*",
    "projection": r"mip|minip|mips|projection|rotation",
    "perfusion": r"perf\w*|dsc|dce|pwi|r?cbv|r?cbf|mtt|ttp|tmax|ktrans|twist|p?c?asl|dynamic|dyn",
    "diffusion": (
        r"dwi|adc|trace\w*|dti|diff\w*|ep2d\w*|tensor|b ?(?:500|800|1000|1500)\w*|ivim|dki"
    ),
    "susceptibility": r"swi\w*|swan|venobold|qsm|t2star|t2s|hemo\w*|pha",
    "angiography": r"tof\w*|angio\w*|mra|mrv|venogr\w*|pc3d|inhance|cow",
    "spectroscopy": r"mrs|spectro\w*|spektro\w*|csi|svs",
    "functional": r"bold|fmri|epi|resting|rest",
    "proton density": r"pd|pdw|proton\w*",
    "STIR": r"stir|tirm",
    "map": r"b0 ?map|b1 ?map|field ?map\w*|gre ?field|t1 ?map\w*|t2 ?map\w*|maps?|phase ?map",
    "other body part": (
        r"\w*spine|cervical|lumbar|thorac\w*|[hbl]ws|rachis|wirbels\w*|abdomen|neck|hals"
    ),
    "screen capture": r"screen ?save|screenshot|report|summary|dose|key images?",
}  # fmt: skip
"""Kinds of series that are no T1 scan of the head, and the words that say so."""
T1 = (
    r"t1(?:w|wi)?\w*|mp2?rage\w*|f?spgr\w*|bravo|vibe|tfe|thrive|lava|flash\w*|tfl\w*|"
    r"(?:ce|c)t1\w*|ir ?prep|3d ?(?:ffe|t1)\w*"
)
T2 = r"t2(?:w|wi)?\w*"
FLAIR = r"flair\w*|dark ?fluid|da ?fl"
CONTRAST_MEDIUM = (
    r"gad\w*|gd\w*|km|ce|c|contrast\w*|kontr\w*|mdc|pdc|inj\w*|iniez\w*|inyec\w*|kontrast\w*"
)
WITH_CONTRAST = (
    r"post(?! ?(?:op\b|fossa|proc))|postgd\w*|postc\w*|(?:mit|nach|n) ?km|ce|gad\w*|gd|gdw?|gddtpa|"
    r"contrast\w*|contraste?o?|kontrast\w*|kontr|mdc|km|inj\w*|iniett\w*|inyec\w*|apres|dopo|"
    r"despues|apos|enhanced|enh|dotarem|gadovist|gadavist|magnevist|prohance|multihance|omniscan|"
    r"clariscan|vueway|elucirem|t1w?(?:c|ce|gd|gad|post|km)|cet1\w*|c ?\+|с контраст\w*|"
    r"контраст\w*"
)
PLUS_CONTRAST = rf"\+ ?(?:{CONTRAST_MEDIUM}|к)\b|\bt1\w*\+|造影|増強|增强"
WITHOUT_CONTRAST = (
    r"(?:non?|sin|sem|zonder|bez|без|vor|avant|before)[ .]?"
    rf"(?:{CONTRAST_MEDIUM}|контр\w*)|"
    r"pre(?! ?op)|precontrast|nativ\w*|unenhanced|plain|basale|blanco|w ?/? ?o|without|ohne|sans|"
    r"senza|nonenh\w*|noncon\w*"
)
REFORMATTED = r"mpr|reformat\w*|ref|reko\w*|rekon\w*|recon\w*|mprs"
TARGETED = r"iac|orbit\w*|sella\w*|pituit\w*|hypophys\w*|kleinhirn\w*|innerohr"


def plain(description: str) -> str:
    """Lower case, without accents, with blanks for underscores and hyphens.

    >>> plain("T1_MPRAGE-sag  Après")
    't1 mprage sag apres'
    """
    letters = unicodedata.normalize("NFKD", description.lower())
    without = "".join(c for c in letters if not unicodedata.combining(c) or ord(c) > 0x3000)
    return " ".join(re.sub(r"[_\-*,;()\[\]]", " ", without).split())


def first_word(pattern: str, description: str) -> str:
    """The first whole word of a plain description that matches; empty if none does."""
    found = re.search(rf"(?<![\w])(?:{pattern})(?![\w])", description)
    return found.group(0) if found else ""


def other_kind(description: str) -> str:
    """Which of OTHER_KINDS, T2 or FLAIR a plain description names; empty for none.

    T1 with inversion for dark fluid (``T1 FLAIR``) is a T1 scan.
    """
    for kind, pattern in OTHER_KINDS.items():
        if first_word(pattern, description):
            return kind
    is_t1 = bool(first_word(T1, description))
    if first_word(FLAIR, description) and not first_word(r"t1\w*", description):
        return "FLAIR"
    return "T2" if first_word(T2, description) and not (is_t1 and "t1" in description) else ""


def contrast_in(description: str) -> bool | None:
    """Whether a plain description says with contrast (True), without (False), or neither."""
    if first_word(WITHOUT_CONTRAST, description):
        return False
    if first_word(WITH_CONTRAST, description) or re.search(PLUS_CONTRAST, description):
        return True
    return None
