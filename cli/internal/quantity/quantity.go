// Package quantity reads and prints amounts of bytes as people write them: 256M, 10G, 1.5G. Units are powers of 1024.
package quantity

import (
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
)

// Help explains the notation; it stands in the help of lqctl.
const Help = `Amounts of memory and disk are a number and a unit: K, M, G, T or P, which are
powers of 1024: 256M is 256 MiB (268435456 bytes), 10G is 10 GiB. "Mi" and "MiB"
mean the same as "M"; "MB" is refused, as it means a power of 1000 to some.
Fractions are fine where whole bytes come out: 1.5G. A number without a unit is
bytes, and one below 1 MiB is refused: it is almost always a forgotten unit.

Rates of networks are bits per second, with powers of 1000 as networks have them:
100M is 100 Mbit/s, 1G is 1 Gbit/s; none is no limit.`

const letters = "KMGTP"

// ParseBytes reads an amount as a user types it. See Help.
func ParseBytes(s string) (int64, error) {
	n, unit, err := split(s)
	if err != nil {
		return 0, err
	}
	if unit == "" && n.Sign() > 0 && n.Cmp(big.NewRat(1<<20, 1)) < 0 {
		return 0, fmt.Errorf("%q is %s bytes; give a unit, for example %sM or %sG", s, s, s, s)
	}
	return whole(s, n, unit)
}

// ParseExact is ParseBytes, but takes any number without a unit as bytes, as data formats do.
func ParseExact(s string) (int64, error) {
	n, unit, err := split(s)
	if err != nil {
		return 0, err
	}
	return whole(s, n, unit)
}

func split(s string) (*big.Rat, string, error) {
	t := strings.TrimSpace(s)
	if t == "" {
		return nil, "", fmt.Errorf("empty amount; write for example 256M or 10G")
	}
	end := 0
	for end < len(t) && (t[end] >= '0' && t[end] <= '9' || t[end] == '.' || end == 0 && (t[end] == '-' || t[end] == '+')) {
		end++
	}
	number, unit := t[:end], strings.TrimSpace(t[end:])
	n, ok := new(big.Rat).SetString(number)
	if !ok || len(number) > 32 {
		return nil, "", fmt.Errorf("%q is not an amount; write a number and a unit, for example 256M or 10G", s)
	}
	if n.Sign() < 0 {
		return nil, "", fmt.Errorf("%q is negative; an amount of bytes is not", s)
	}
	return n, unit, nil
}

func whole(s string, n *big.Rat, unit string) (int64, error) {
	factor, err := factorOf(s, unit)
	if err != nil {
		return 0, err
	}
	n = new(big.Rat).Mul(n, new(big.Rat).SetInt64(factor))
	if !n.IsInt() {
		return 0, fmt.Errorf("%q is not a whole number of bytes; use a smaller unit", s)
	}
	if !n.Num().IsInt64() {
		return 0, fmt.Errorf("%q is too large; the most is %s", s, FormatBytes(math.MaxInt64))
	}
	return n.Num().Int64(), nil
}

func factorOf(s, unit string) (int64, error) {
	if unit == "" || unit == "B" || unit == "b" {
		return 1, nil
	}
	i := strings.IndexByte(letters, strings.ToUpper(unit)[0])
	rest := strings.ToLower(unit[1:])
	switch {
	case i >= 0 && (rest == "" || rest == "i" || rest == "ib"):
		return 1 << (10 * (i + 1)), nil
	case i >= 0 && rest == "b":
		return 0, fmt.Errorf("unit %q in %q is a power of 1000 to some; write %c for a power of 1024", unit, s, letters[i])
	}
	return 0, fmt.Errorf("unknown unit %q in %q; use K, M, G, T or P (powers of 1024)", unit, s)
}

// FormatBytes prints an amount for people in the largest unit that leaves a number of at least 1, with one decimal where it is not whole.
func FormatBytes(n int64) string {
	if n < 1024 {
		return strconv.FormatInt(n, 10) + "B"
	}
	f, i := float64(n)/1024, 0
	for f >= 1024 && i < len(letters)-1 {
		f, i = f/1024, i+1
	}
	text := strconv.FormatFloat(f, 'f', 1, 64)
	return strings.TrimSuffix(text, ".0") + letters[i:i+1]
}
