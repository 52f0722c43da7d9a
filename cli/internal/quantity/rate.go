package quantity

import (
	"fmt"
	"math/big"
	"strconv"
	"strings"
)

// ParseRate reads a rate in bits per second as people write those of networks: 100M, 1.5G, 64kbit. Units are powers of 1000; "none" and "0" are no limit.
func ParseRate(s string) (int64, error) {
	if strings.EqualFold(strings.TrimSpace(s), "none") {
		return 0, nil
	}
	n, unit, err := split(s)
	if err != nil {
		return 0, fmt.Errorf("%q is no rate; write bits per second, for example 100M or 1G", s)
	}
	bare := strings.ToLower(unit)
	for _, end := range []string{"bit/s", "bits", "bit", "bps"} {
		if rest, ok := strings.CutSuffix(bare, end); ok {
			bare = rest
			break
		}
	}
	factor := map[string]int64{"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}[bare]
	if factor == 0 {
		return 0, fmt.Errorf("unknown unit %q in %q; use k, M, G or T for bits per second (powers of 1000)", unit, s)
	}
	if unit == "" && n.Sign() > 0 && n.Cmp(big.NewRat(1000, 1)) < 0 {
		return 0, fmt.Errorf("%q is %s bits per second; give a unit, for example %sM", s, s, s)
	}
	n = new(big.Rat).Mul(n, new(big.Rat).SetInt64(factor))
	if !n.IsInt() || !n.Num().IsInt64() {
		return 0, fmt.Errorf("%q is not a whole number of bits per second, or too large", s)
	}
	return n.Num().Int64(), nil
}

// FormatRate prints a rate for people, to three decimals.
func FormatRate(bits int64) string {
	f, i := float64(bits), 0
	for f >= 1000 && i < 4 {
		f, i = f/1000, i+1
	}
	return strings.TrimRight(strings.TrimRight(strconv.FormatFloat(f, 'f', 3, 64), "0"), ".") + []string{"", "k", "M", "G", "T"}[i] + "bit/s"
}
