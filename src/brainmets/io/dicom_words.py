"""What words in a series' description mean, in the languages hospitals write them in.

Descriptions are free text: English, German, French, Italian, Spanish, Portuguese, Dutch,
Polish, Czech, Russian, Chinese and Japanese forms are known here. Underscores and hyphens
count as blanks, but a hyphen that may be a minus before or after a word for contrast is kept
as one; upper and lower case are the same.
"""

import re
import unicodedata

OTHER_KINDS = {
    "localiser": (
        r"loc|locali[sz]\w*|lokali\w*|scout|aah\w*|survey|3 ?plane?|topogram\w*|reperage|"
        r"smartbrain"
    ),
    "subtraction": (
        r"sub|subtr\w*|soustr\w*|sottr\w*|sustr\w*|resta|minus|differenz\w*|difference|差分\w*"
    ),
    "projection": r"mip|minip|mips|projection|rotation",
    "perfusion": r"perf\w*|dsc|dce|pwi|r?cbv|r?cbf|mtt|ttp|tmax|ktrans|twist|p?c?asl|dynamic|dyn",
    "diffusion": (
        r"dwi|adc|trace\w*|dti|diff\w*|difu\w*|ep2d\w*|tensor|b ?(?:500|800|1000|1500)\w*|ivim|dki"
    ),
    "susceptibility": r"swi\w*|swan|venobold|qsm|t2star|t2s|hemo\w*|pha",
    "angiography": r"tof\w*|angio\w*|mra|mrv|venogr\w*|pc3d|inhance|cow",
    "spectroscopy": r"mrs|spectro\w*|spektro\w*|csi|svs",
    "functional": r"bold|fmri|epi|resting|rest(?! (?:of|des|der|vom|du|de|del)\b)",
    "proton density": r"pd|pdw|proton\w*",
    "STIR": r"stir|tirm",
    "map": r"b0 ?map|b1 ?map|field ?map\w*|gre ?field|t1 ?map\w*|t2 ?map\w*|maps?|phase ?map",
    "other body part": (
        r"\w*spine|cervical|lumbar|thorac\w*|[hbl]?ws|rachis|\w*wirbels\w*|abdomen|neck|hals|"
        r"cuello|collo|columna|colonna|coluna"
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
AGENTS = "gad\\w*|gd\\w*|dotarem|magnevist|prohance|multihance|omniscan|clariscan|vueway|elucirem"
MEDIUM = (
    rf"{AGENTS}|km|ce|contrast\w*|contr|kontras\w*|kontr|контраст\w*|к ?/ ?у|mdc|inj\w*|iniett\w*|"
    r"iniez\w*|inyec\w*|civ"
)
"""Words that mean contrast was given, unless another word denies it."""
CONTRAST = rf"{MEDIUM}|c|pdc|i\.?v\.?|cte|kl|enh\w*|контр"
"""The same, and words that mean contrast only beside a word or sign that gives or denies it."""
TREATMENT = (
    r"op\b|oper\w*|fossa|proc|rt\b|xrt\b|srs\b|gk\b|tx\b|surg\w*|treat\w*|radi\w*|chem\w*|"
    r"biops\w*|resec\w*"
)
"""What *post* and *pre* may stand before that is not contrast."""
WITH_CONTRAST = (
    rf"(?:post|apres|dopo|despues|apos)(?! ?(?:{TREATMENT}))|post?(?:{CONTRAST})|[mn]km|{MEDIUM}|"
    rf"enhanced|enh|t1w?(?:c|ce|gd|gad|post|km)|cet1\w*|c/ ?(?:{CONTRAST})|"
    rf"(?:con|com|mit|nach|n|avec|with|w|met|po|z)(?: |/ ?|\. ?)(?:{CONTRAST})|"
    r"s kl"
)
PLUS_CONTRAST = (
    rf"\+ ?(?:{CONTRAST}|k|к)\b|(?<!\w)(?:{CONTRAST}|k|к) ?\+|\bt1\w*\+(?!\w)|造影|[増增][強强]"
)
DENIAL = (
    r"no|non|not|none|nil|sin|sem|s ?/|zonder|geen|bez|без|vor|voor|avant|av|before|prior(?: to)?|"
    r"o(?=[. ]{0,2}(?:km|gd|gad|kontr|mdc))|kein\w*|prima|antes|przed|pred|до|wo|pre|ohne|sans|"
    r"senza|without|(?<![\d.])0(?:\.0+)?|−"
)
ARTICLES = r"(?:(?:de|del|della|dell'|d'|du|des|la|le|el|il|the|any|iv|i\.v\.)[ .]*)*"
OTHER_OBJECT = (
    r"(?! ?(?:fs|fat\w*|sat\w*|fatsat|sup\w*|spair|spir|stir|dixon|mt\w*|flow|gat\w*|nav\w*|"
    r"mot\w*))"
)
"""A *no* before one of these denies something else than contrast."""
WITHOUT_CONTRAST = (
    rf"(?:{DENIAL})[ .:]*{ARTICLES}(?:{CONTRAST})|"
    rf"(?:{CONTRAST}|t1w?(?:c|ce|gd|gad|km))(?:−|"
    rf"[ .:=]+(?:no|non|not|none|nil|nein|kein\w*|нет|nie)(?!\w){OTHER_OBJECT}|"
    r"[ .:=]+0(?:(?:\.0+)? ?(?:ml|cc|mmol)|(?= *$)))|"
    rf"pre(?! ?(?:{TREATMENT}))|nativ\w*|нативн\w*|unenh\w*|plain|basale|blanco|"
    r"w ?/? ?o|t1w?wo|without|ohne|sans|senza|nonenh\w*|noncon\w*|nc"
)
WITHOUT_IN_EAST_ASIA = (
    r"[非無无未不](?:造影|[増增][強强])|"
    r"(?:造影|[増增][強强])[剤剂]? ?(?:前|なし|無|无|せす|ナシ|−)|"
    r"単純|单纯|單純|平[扫掃]"
)
UNCLEAR = (
    rf"±|− (?:{CONTRAST})|w ?/ ?w ?/? ?o|w ?/? ?o ?/ ?w|"
    rf"with (?:and|or|&) without|s (?!km|kl|kontras|к)(?:{CONTRAST})"
)
"""Both with and without, a dash that may be a minus, an *s* that may be *sin*, *sem* or *sans*."""
MINUS_AT = (
    r"gd|gad|gado|km|ce|c|contrast\w*|kontras\w*|контраст\w*|mdc|pdc|inj|iv|civ|kl|造影|"
    r"t1w?(?:c|ce|gd|km)"
)
"""Words beside which a hyphen may be a minus: none that names an agent in full."""
FAT_OR_OUT_OF_PHASE = (
    r"f|fat(?! ?(?:s|fs|sat\w*|sup\w*|free)\b)|fett|op|opp\w*|out(?: ?of)?(?: ?phase)?|outphase"
)
NO_AGENT = ("", "n", "na", "0", "00", "unknown", "false")
NO_AGENT_FIRST = (
    r"(?:no|none|non(?! ?ion)|not|nothing|nil|null|nein|nie|kein\w*|aucun\w*|ningun\w*|nessun\w*|"
    r"nenhum\w*|geen|brak|without|ohne|sans|senza|sin|sem|bez|без|нет|"
    r"0(?:\.0+)? ?(?:ml|cc|mmol))(?!\w)|なし|無|无"
)
"""How a header says, in place of the agent's name, that there was none."""
DIXON = r"\w*dixon\w*|ideal|flex|lava ?flex"
REFORMATTED = r"mpr|reformat\w*|ref|reko\w*|rekon\w*|recon\w*|mprs"
TARGETED = r"iac|orbit\w*|sella\w*|pituit\w*|hypophys\w*|kleinhirn\w*|innerohr"


def plain(description: str) -> str:
    """Lower case, without accents, with blanks for underscores and hyphens.

    A hyphen on one side of a word for contrast becomes a minus sign. Chinese and Japanese
    words are set apart from Latin ones.

    >>> plain("T1_MPRAGE-sag  Après")
    't1 mprage sag apres'
    """
    letters = unicodedata.normalize("NFKD", description.lower())
    without = "".join(c for c in letters if not unicodedata.combining(c) or ord(c) > 0x3000)
    signed = _minus_signs(re.sub(r"(?<=\d),(?=\d)", ".", without.replace("_", " ")))
    apart = re.sub(
        r"(?<=[\u3040-\u9fff])(?=[a-z0-9])|(?<=[a-z0-9])(?=[\u3040-\u9fff])", " ", signed
    )
    return " ".join(re.sub(r"[\-*,;()\[\]]", " ", apart).split())


def _minus_signs(letters: str) -> str:
    """Hyphens that may deny contrast as minus signs; those within words stay as they are."""
    hyphens = re.sub(r"[\u2010-\u2015\u2212]", "-", letters)
    either = re.sub(r"\+ ?/ ?-|- ?/ ?\+", "±", hyphens)
    before = re.sub(rf"(?<!\w)-( *)(?=(?:{MINUS_AT})(?![\w+]))", "\u2212\\1", either)
    return re.sub(rf"(?<![\w+])({MINUS_AT})(?:-(?!\w)| +-(?=\W*$))", "\\1\u2212", before)


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
    """Whether a plain description says with contrast (True), without (False), or neither.

    A denial outweighs whatever else is said.
    """
    if first_word(UNCLEAR, description):
        return None
    if first_word(WITHOUT_CONTRAST, description) or re.search(WITHOUT_IN_EAST_ASIA, description):
        return False
    if first_word(WITH_CONTRAST, description) or re.search(PLUS_CONTRAST, description):
        return True
    return None


def names_agent(given: str) -> bool:
    """Whether what stands for the contrast agent names one, rather than says there was none."""
    words = plain(given)
    if re.sub(r"[\W_]", "", words) in NO_AGENT or re.match(NO_AGENT_FIRST, words):
        return False
    return contrast_in(words) is not False


def is_fat_or_out_of_phase(description: str, image_type: str) -> bool:
    """Whether it is the fat or out-of-phase image of a Dixon series.

    Args:
        description: plain.
        image_type: the values of Image Type (0008,0008), plain, with blanks between them.
    """
    if re.search(r"(?<!\w)(?:f|fat|op|opp|out|opposed|outphase|oppphase)(?!\w)", image_type):
        return True
    dixon = first_word(DIXON, f"{description} {image_type}")
    return bool(dixon and first_word(FAT_OR_OUT_OF_PHASE, description))
