package filter

import (
	"regexp"
	"strings"
)

// counted is what nft prints of a counter's state.
var counted = regexp.MustCompile(`counter packets \d+ bytes \d+`)

// parseFrames reads what nft prints of the table.
func parseFrames(listed string) *Frames {
	fr := &Frames{Chains: map[string][]string{}, Elements: map[string]map[string]struct{}{}, Counters: map[string]struct{}{}}
	var chain, set string
	elements := func(s string) {
		s = strings.TrimSuffix(strings.TrimSpace(s), "}")
		for e := range strings.SplitSeq(s, ",") {
			if e = strings.TrimSpace(e); e != "" {
				fr.Elements[set][e] = struct{}{}
			}
		}
	}
	for line := range strings.Lines(listed) {
		line = strings.TrimSpace(line)
		f := strings.Fields(line)
		switch {
		case len(f) == 0 || f[0] == "table":
		case f[0] == "}":
			chain, set = "", ""
		case len(f) == 3 && f[2] == "{" && f[0] == "chain":
			chain = f[1]
			fr.Chains[chain] = []string{}
		case len(f) == 3 && f[2] == "{" && (f[0] == "map" || f[0] == "set"):
			set = f[1]
			fr.Elements[set] = map[string]struct{}{}
		case len(f) == 3 && f[2] == "{" && f[0] == "counter":
			fr.Counters[f[1]] = struct{}{}
			chain, set = "", ""
		case chain != "":
			if f[0] != "type" {
				fr.Chains[chain] = append(fr.Chains[chain], counted.ReplaceAllString(line, "counter"))
			}
		case set != "" && f[0] == "type":
		case set != "":
			elements(strings.TrimPrefix(line, "elements = {"))
		}
	}
	return fr
}
