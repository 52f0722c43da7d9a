package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Bytes is an amount of memory in bytes.
type Bytes int64

var units = []struct {
	suffix string
	factor float64
}{
	{"KiB", 1 << 10},
	{"MiB", 1 << 20},
	{"GiB", 1 << 30},
	{"TiB", 1 << 40},
	{"kB", 1e3},
	{"KB", 1e3},
	{"MB", 1e6},
	{"GB", 1e9},
	{"TB", 1e12},
	{"B", 1},
}

// UnmarshalYAML reads a number of bytes or a number with a unit, for example 536870912, "512MiB", "1.5 GiB".
func (b *Bytes) UnmarshalYAML(n *yaml.Node) error {
	text, factor := strings.TrimSpace(n.Value), 1.0
	for _, u := range units {
		if rest, ok := strings.CutSuffix(text, u.suffix); ok {
			text, factor = strings.TrimSpace(rest), u.factor
			break
		}
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || n.Kind != yaml.ScalarNode || v < 0 || v*factor > math.MaxInt64/2 {
		return fmt.Errorf("%q is not an amount of memory; write bytes or a unit, for example 512MiB", n.Value)
	}
	*b = Bytes(v * factor)
	return nil
}
