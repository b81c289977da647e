"""Names of languages by their code: ISO 639-1, and the few three-letter codes that speech corpora add."""

from __future__ import annotations

# Code, English name, then what else it is called: ISO 639-2 and -3 codes, its name in itself.
_TABLE = """
aa Afar/aar|ab Abkhazian/abk|ae Avestan/ave|af Afrikaans/afr|ak Akan/aka|am Amharic/amh/አማርኛ|an Aragonese/arg
ar Arabic/ara/العربية/arb|as Assamese/asm/অসমীয়া|av Avaric/ava|ay Aymara/aym|az Azerbaijani/aze/azj|ba Bashkir/bak
be Belarusian/bel/беларуская|bg Bulgarian/bul/Български|bi Bislama/bis|bm Bambara/bam|bn Bengali/ben/বাংলা
bo Tibetan/bod/tib|br Breton/bre/Brezhoneg|bs Bosnian/bos|ca Catalan/cat/català/Valencian|ce Chechen/che
ch Chamorro/cha|co Corsican/cos|cr Cree/cre|cs Czech/ces/cze/čeština|cu Church Slavonic/chu|cv Chuvash/chv
cy Welsh/cym/wel/Cymraeg|da Danish/dan/dansk|de German/deu/ger/Deutsch|dv Divehi/div|dz Dzongkha/dzo|ee Ewe
el Greek/ell/gre/Ελληνικά/Modern Greek|en English/eng|eo Esperanto/epo|es Spanish/spa/Español/Castilian
et Estonian/est/eesti/ekk|eu Basque/eus/baq/Euskara|fa Persian/fas/per/فارسی/pes/Farsi|ff Fulah/ful
fi Finnish/fin/suomi|fj Fijian/fij|fo Faroese/fao|fr French/fra/fre/français|fy Western Frisian/fry
ga Irish/gle/Gaeilge|gd Scottish Gaelic/gla|gl Galician/glg/Galego|gn Guarani/grn|gu Gujarati/guj/ગુજરાતી
gv Manx/glv|ha Hausa/hau|he Hebrew/heb/עברית/iw|hi Hindi/hin/हिंदी|ho Hiri Motu/hmo|hr Croatian/hrv/Hrvatski
ht Haitian Creole/hat|hu Hungarian/hun/magyar|hy Armenian/hye/arm/Հայերեն|hz Herero/her|ia Interlingua/ina
id Indonesian/ind/Indonesia/in|ie Interlingue/ile|ig Igbo/ibo|ii Sichuan Yi/iii|ik Inupiaq/ipk|io Ido
is Icelandic/isl/ice/Íslenska|it Italian/ita/Italiano|iu Inuktitut/iku|ja Japanese/jpn/日本語|jv Javanese/jav
ka Georgian/kat/geo/ქართული|kg Kongo/kon|ki Kikuyu/kik|kj Kuanyama/kua|kk Kazakh/kaz|kl Greenlandic/kal
km Khmer/khm/Central Khmer|kn Kannada/kan/ಕನ್ನಡ|ko Korean/kor/한국어|kr Kanuri/kau|ks Kashmiri/kas|ku Kurdish/kur/ckb
kv Komi/kom|kw Cornish/cor|ky Kyrgyz/kir/Kirghiz|la Latin/lat|lb Luxembourgish/ltz|lg Ganda/lug|li Limburgish/lim
ln Lingala/lin|lo Lao|lt Lithuanian/lit/Lietuvių|lu Luba-Katanga/lub|lv Latvian/lav/Latviešu/lvs|mg Malagasy/mlg
mh Marshallese/mah|mi Maori/mri/mao/Reo Māori|mk Macedonian/mkd/mac/Македонски|ml Malayalam/mal/മലയാളം
mn Mongolian/mon/Монгол/khk|mr Marathi/mar/मराठी|ms Malay/msa/may/Bahasa Melayu/zsm|mt Maltese/mlt/Malti
my Burmese/mya/bur|na Nauru/nau|nb Norwegian Bokmål/nob/norsk bokmål/no/nor/Norwegian/norsk|nd North Ndebele/nde
ne Nepali/nep/npi|ng Ndonga/ndo|nl Dutch/nld/dut/Nederlands/Flemish|nn Norwegian Nynorsk/nno/nynorsk
no Norwegian/nor/norsk|nr South Ndebele/nbl|nv Navajo/nav|ny Chichewa/nya/Chewa/Nyanja|oc Occitan/oci|oj Ojibwa/oji
om Oromo/orm/gaz|or Odia/ori/ଓଡିଆ/Oriya|os Ossetian/oss|pa Punjabi/pan/ਪੰਜਾਬੀ/Panjabi|pi Pali/pli
pl Polish/pol/polski|ps Pashto/pus/Pushto|pt Portuguese/por/Português|qu Quechua/que|rm Romansh/roh|rn Rundi/run
ro Romanian/ron/rum/Moldavian|ru Russian/rus/русский|rw Kinyarwanda/kin/Ikinyarwanda|sa Sanskrit/san
sc Sardinian/srd/Sardu|sd Sindhi/snd|se Northern Sami/sme|sg Sango/sag|si Sinhala/sin|sk Slovak/slk/slo/slovenčina
sl Slovenian/slv/slovenščina|sm Samoan/smo|sn Shona/sna|so Somali/som|sq Albanian/sqi/alb/Shqip
sr Serbian/srp/српски|ss Swati/ssw|st Southern Sotho/sot|su Sundanese/sun|sv Swedish/swe/Svenska
sw Swahili/swa/swh/Kiswahili|ta Tamil/tam/தமிழ்|te Telugu/tel/తెలుగు|tg Tajik/tgk|th Thai/tha/ไทย
ti Tigrinya/tir/ትግርኛ|tk Turkmen/tuk|tl Tagalog/tgl/fil/Filipino|tn Tswana/tsn|to Tongan/ton|tr Turkish/tur/Türkçe
ts Tsonga/tso|tt Tatar/tat/Татарча|tw Twi|ty Tahitian/tah|ug Uyghur/uig/Uighur|uk Ukrainian/ukr/українська
ur Urdu/urd|uz Uzbek/uzb/uzn|ve Venda/ven|vi Vietnamese/vie/Tiếng Việt|vo Volapük/vol|wa Walloon/wln/Walon
wo Wolof/wol|xh Xhosa/xho/isiXhosa|yi Yiddish/yid|yo Yoruba/yor|za Zhuang/zha|zh Chinese/zho/chi/汉语/cmn/Mandarin/中文
zu Zulu/zul/Isi-Zulu|ast Asturian|ceb Cebuano|ckb Central Kurdish|fil Filipino|kam Kamba|kea Kabuverdianu|luo Luo
nso Northern Sotho|umb Umbundu|yue Cantonese
"""

_NAMES: dict[str, list[str]] = {
    entry.split(" ", 1)[0]: entry.split(" ", 1)[1].split("/")
    for line in _TABLE.split("\n")
    if line
    for entry in line.split("|")
}
LANGUAGES: dict[str, str] = {code: names[0] for code, names in _NAMES.items()}  # to the English name


def find_languages(text: str) -> list[str]:
    """Return the codes of the languages that are called so, in whatever case: German, deu, ger, Deutsch."""
    wanted = text.casefold()
    return [code for code, names in _NAMES.items() if wanted in (code, *(name.casefold() for name in names))]
