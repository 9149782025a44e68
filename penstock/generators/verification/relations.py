"""Words that say how amounts relate: what a variant must not lose, gain or turn round.

A line is a class: its name, then its words. Words of one class may stand for each other, words of different classes
may not. Classes are narrow on purpose: a synonym that is missing here rejects a sound variant, one that is wrong here
lets a changed problem pass.
"""

from __future__ import annotations

from penstock.generators.transforms.text import word_set

_CLASSES = """
more: more additional extra
less: less fewer lesser
most: most
least: least fewest
than: than
great: greater
big: big bigger larger large
small: small smaller tinier
great.st: greatest
big.st: biggest largest
small.st: smallest tiniest
high: high higher
low: low lower
high.st: highest
low.st: lowest
old: old older elder
young: young younger
old.st: oldest eldest
young.st: youngest
tall: tall taller
short: short shorter
tall.st: tallest
short.st: shortest
long: long longer
long.st: longest
heavy: heavy heavier
light: light lighter
heavy.st: heaviest
light.st: lightest
fast: fast faster quick quicker
slow: slow slower slowly
fast.st: fastest quickest
slow.st: slowest
cheap: cheap cheaper
expensive: expensive pricier
cheap.st: cheapest
early: early earlier
late: late later
early.st: earliest
late.st: latest
near: near nearer close closer
far: far farther further
near.st: nearest closest
far.st: farthest furthest
hot: hot hotter
cold: cold colder
warm: warm warmer
cool: cool cooler
deep: deep deeper
shallow: shallow shallower
wide: wide wider
narrow: narrow narrower
thick: thick thicker
thin: thin thinner
strong: strong stronger
weak: weak weaker
rich: rich richer
poor: poor poorer
good: good better
bad: bad worse
good.st: best
bad.st: worst
maximum: maximum max
minimum: minimum min
full: full
empty: empty emptied empties
above: above
below: below beneath
over: over
under: under underneath
up: up upward upwards upstairs uphill
down: down downward downwards downstairs downhill
out: out outside
off: off
away: away
back: back backward backwards
forward: forward forwards
inside: inside
without: without
except: except excluding besides apart
including: including
times: times fold
double: doubling
each: each every apiece
per: per
both: both
either: either
neither: neither nor
all: all
whole: whole entire entirely
part: part partial partially portion
some: some several
few: few
many: many
much: much
any: any
only: only just merely
almost: almost nearly
about: about approximately roughly around
exactly: exactly precisely
another: another
other: other others
same: same equal equally identical evenly even
different: different differently
odd: odd
positive: positive
negative: negative
nonnegative: nonnegative
nonzero: nonzero
integer: integer integers
rational: rational
irrational: irrational
real: real
prime: prime primes
composite: composite
distinct: distinct
consecutive: consecutive
divisible: divisible
multiple: multiple multiples
divisor: divisor divisors factor factors
square: square squares squared
cube: cube cubes cubed
root: root roots
radius: radius radii
diameter: diameter diameters
circumference: circumference
perpendicular: perpendicular
parallel: parallel
rest: rest remainder
left: left remaining remain remains remained leftover leftovers
total: total totals totaling totaled totalling altogether combined overall sum
together: together jointly
separate: separate separately
average: average averages averaged mean
difference: difference
ratio: ratio proportion
percentage: percentage
single: single
once: once
pair: pair pairs
couple: couple
hundreds: hundreds
thousands: thousands
not: not no none never cannot nobody nothing
half.adj: halfway
enough: enough
unless: unless
until: until till
before: before prior
after: after afterwards afterward
then: then next subsequently
first: firstly
last: last lastly final finally
previous: previous previously
initial: initial initially original originally
already: already
now: now currently
still: still
again: again
yesterday: yesterday
today: today
tomorrow: tomorrow
ago: ago
daily: daily
weekly: weekly
monthly: monthly
yearly: yearly annually annual
hourly: hourly
morning: morning mornings
noon: noon midday
afternoon: afternoon afternoons
evening: evening evenings
night: night nights midnight
always: always
sometimes: sometimes
usually: usually
instead: instead rather
monday: monday mondays
tuesday: tuesday tuesdays
wednesday: wednesday wednesdays
thursday: thursday thursdays
friday: friday fridays
saturday: saturday saturdays
sunday: sunday sundays
weekend: weekend weekends
weekday: weekday weekdays
january: january
february: february
march: march
april: april
june: june
july: july
august: august
september: september
october: october
november: november
december: december
spring: spring
summer: summer
autumn: autumn fall
winter: winter
give: give gives gave given giving hand hands handed handing
receive: receive receives received receiving
get: get gets got gotten getting
buy: buy buys bought buying purchase purchases purchased purchasing
sell: sell sells sold selling
find: find finds found finding
lose: lose loses lost losing
win: win wins won winning
forfeit: forfeit forfeits forfeited forfeiting
add: add adds added adding
remove: remove removes removed removing
earn: earn earns earned earning
spend: spend spends spent spending
gain: gain gains gained gaining
borrow: borrow borrows borrowed borrowing
lend: lend lends lent lending loan loans loaned
collect: collect collects collected collecting gather gathers gathered gathering
discard: discard discards discarded discarding throw throws threw thrown throwing
eat: eat eats ate eaten eating consume consumes consumed consuming
drink: drink drinks drank drunk drinking
bake: bake bakes baked baking
cook: cook cooks cooked cooking
make: make makes made making
create: create creates created creating
use: use uses used using
need: need needs needed needing require requires required requiring
keep: keep keeps kept keeping
save: save saves saved saving
take: take takes took taken taking
bring: bring brings brought bringing
return: return returns returned returning
deposit: deposit deposits deposited depositing
withdraw: withdraw withdraws withdrew withdrawn withdrawing
arrive: arrive arrives arrived arriving
leave: leave leaves leaving
depart: depart departs departed departing
enter: enter enters entered entering
exit: exit exits exited exiting
begin: begin begins began begun beginning start starts started starting
end: end ends ended ending finish finishes finished finishing
stop: stop stops stopped stopping
hire: hire hires hired hiring
fire: fire fires fired firing
come: come comes came coming
go: go goes went gone going travel travels traveled travelled traveling travelling
grow: grow grows grew grown growing
shrink: shrink shrinks shrank shrunk shrinking
increase: increase increases increased increasing
decrease: decrease decreases decreased decreasing reduce reduces reduced reducing
raise: raise raises raised raising rise rises rose risen rising
drop: drop drops dropped dropping
pick: pick picks picked picking
plant: plant plants planted planting
build: build builds built building
break: break breaks broke broken breaking
die: die dies died dying
born: born hatch hatches hatched
join: join joins joined joining
quit: quit quits
share: share shares shared sharing
divide: divide divides divided dividing split splits splitting
distribute: distribute distributes distributed distributing
multiply: multiply multiplies multiplied multiplying
subtract: subtract subtracts subtracted subtracting minus
plus: plus
product: product
quotient: quotient
pay: pay pays paid paying
cost: cost costs costing
price: price prices priced
owe: owe owes owed owing
charge: charge charges charged charging
refund: refund refunds refunded
donate: donate donates donated donating
contain: contain contains contained containing hold holds held holding
fill: fill fills filled filling
read: read reads reading
write: write writes wrote written writing
pour: pour pours poured pouring
spill: spill spills spilled spilling
cut: cut cuts cutting
pack: pack packs packed packing
unpack: unpack unpacks unpacked
load: load loads loaded loading
unload: unload unloads unloaded
send: send sends sent sending
steal: steal steals stole stolen stealing
trade: trade trades traded exchange exchanges exchanged swap swaps swapped
climb: climb climbs climbed climbing ascend ascends ascended
descend: descend descends descended descending
catch: catch catches caught catching
release: release releases released
open: open opens opened
close.v: closed closes
destroy: destroy destroys destroyed
fail: fail fails failed failing
pass: pass passes passed passing
win.n: victory victories
lose.n: loss losses defeat
mother: mother mothers mom moms mommy mum
father: father fathers dad dads daddy
grandmother: grandmother grandmothers grandma
grandfather: grandfather grandfathers grandpa
brother: brother brothers
sister: sister sisters
son: son sons
daughter: daughter daughters
uncle: uncle uncles
aunt: aunt aunts
cousin: cousin cousins
profit: profit profits
discount: discount discounts discounted
tax: tax taxes
tip: tip tips
interest: interest
income: income salary wage wages
expense: expense expenses
age: age ages aged
height: height
weight: weight
length: length
width: width
depth: depth
distance: distance
speed: speed
area: area
perimeter: perimeter
volume: volume
"""

FUNCTION = word_set("""
a an the of to in on at for from by with as and or but so if because while when where who whom whose which that this
these those there here it's is are was were be been being am has have had having do does did doing done will would
shall should can could may might must also too very such into onto through during between among across along per via
about what how why let let's i me my mine myself you your yours yourself yourselves we us our ours ourselves he him
his himself she her hers herself it its itself they them their theirs themselves one ones own not no yes please
until since than then upon within toward towards
""")
# words that seldom are part of what is counted, though no class holds them
_VERBS = word_set("""
want wants wanted decide decides decided live lives lived play plays played work works worked walk walks walked run
runs ran drive drives drove travel travels traveled travelled ride rides rode watch watches watched visit visits
visited see sees saw seen know knows knew think thinks say says said tell tells told ask asks asked put puts weigh
weighs weighed score scores scored sleep sleeps slept study studies studied learn learns learned teach teaches
taught wear wears wore attend attends attended contribute stay stays stayed last lasts lasted plan plans planned
seem seems order orders ordered
""")

PRONOUNS = {
    word: name
    for name, words in {
        "he": "he him his himself",
        "she": "she her hers herself",
        "it": "it its itself",
        "they": "they them their theirs themselves",
        "we": "we us our ours ourselves",
        "you": "you your yours yourself yourselves",
        "i": "me my mine myself",
    }.items()
    for word in words.split()
}


def _read() -> dict[str, str]:
    found: dict[str, str] = {}
    for line in _CLASSES.strip().splitlines():
        name, _, words = line.partition(":")
        found.update(dict.fromkeys(words.split(), name))
    return found


RELATIONS = _read()
PLAIN = FUNCTION | _VERBS  # no part of a noun phrase that a number counts

# units of measure: canonical name and all ways to write it; those of one family measure the same kind of thing
UNITS = {
    word: name
    for name, words in {
        "second": "second seconds sec secs",
        "minute": "minute minutes mins",
        "hour": "hour hours hr hrs",
        "day": "day days",
        "week": "week weeks",
        "month": "month months",
        "year": "year years",
        "decade": "decade decades",
        "century": "century centuries",
        "inch": "inch inches",
        "foot": "foot feet ft",
        "yard": "yard yards",
        "mile": "mile miles",
        "millimeter": "millimeter millimeters millimetre millimetres mm",
        "centimeter": "centimeter centimeters centimetre centimetres cm",
        "meter": "meter meters metre metres",
        "kilometer": "kilometer kilometers kilometre kilometres km kms",
        "ounce": "ounce ounces oz",
        "pound": "pound pounds lb lbs",
        "ton": "ton tons tonne tonnes",
        "milligram": "milligram milligrams mg",
        "gram": "gram grams",
        "kilogram": "kilogram kilograms kg kgs kilo kilos",
        "cup": "cup cups",
        "pint": "pint pints pt",
        "quart": "quart quarts qt",
        "gallon": "gallon gallons gal",
        "milliliter": "milliliter milliliters millilitre millilitres ml",
        "liter": "liter liters litre litres",
        "tablespoon": "tablespoon tablespoons tbsp",
        "teaspoon": "teaspoon teaspoons tsp",
        "dollar": "dollar dollars buck bucks usd",
        "cent": "cent cents",
        "euro": "euro euros",
        "penny": "penny pennies",
        "nickel": "nickel nickels",
        "dime": "dime dimes",
        "percent": "percent",
        "degree": "degree degrees",
        "mph": "mph",
    }.items()
    for word in words.split()
}
# only directly after a number
SHORT_UNITS = {"m": "meter", "g": "gram", "l": "liter", "min": "minute", "yd": "yard", "mi": "mile"}
SIGNS = {"$": "dollar", "€": "euro", "£": "pound sterling", "¥": "yen", "%": "percent", "¢": "cent", "°": "degree"}
