package filter

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
)

// Tables are iptables' chains of ours in one family: rules by table and chain, in the form in which iptables-save prints them, without "-A CHAIN ".
type Tables map[string]map[string][]string

// hooks are the rules in chains that are not ours: where packets come in.
var hooks = []struct{ table, chain, target string }{
	{"raw", "PREROUTING", "LQ-ZONE"},
	{"raw", "OUTPUT", "LQ-ZONE-OUT"},
	{"mangle", "PREROUTING", "LQ-PRE"},
	{"mangle", "FORWARD", "LQ-FWD"},
	{"mangle", "POSTROUTING", "LQ-POST"},
	{"nat", "PREROUTING", "LQ-DNAT"},
	{"nat", "POSTROUTING", "LQ-SNAT"},
	{"filter", "INPUT", "LQ-INPUT"},
	{"filter", "FORWARD", "LQ-FORWARD"},
}

var tableNames = []string{"raw", "nat", "filter", "mangle"}

// ours reports whether a chain is one of this driver's.
func ours(chain string) bool {
	for _, p := range []string{"LQ-", "LQE-", "LQI-", "LQN-", "LQM-", "LQe-", "LQi-"} {
		if strings.HasPrefix(chain, p) {
			return true
		}
	}
	return false
}

func (t Tables) add(table, chain string, rules ...string) {
	if t[table] == nil {
		t[table] = map[string][]string{}
	}
	t[table][chain] = append(t[table][chain], rules...)
}

// script is what iptables-restore --noflush needs to bring have to want; empty = nothing. Of a chain whose order means nothing only the difference is sent.
func script(have, want Tables) string {
	var b strings.Builder
	for _, table := range tableNames {
		if s := tableScript(table, have[table], want[table]); s != "" {
			fmt.Fprintf(&b, "*%s\n%sCOMMIT\n", table, s)
		}
	}
	return b.String()
}

func tableScript(table string, have, want map[string][]string) string {
	var declare, rules, remove strings.Builder
	for _, chain := range changed(have, want) {
		old, there := have[chain]
		if !ours(chain) {
			for _, r := range want[chain] {
				if !slices.Contains(old, r) {
					fmt.Fprintf(&rules, "-I %s 1 %s\n", chain, r)
				}
			}
			continue
		}
		if add, del, ok := difference(chain, old, want[chain]); there && ok {
			for _, r := range del {
				fmt.Fprintf(&rules, "-D %s %s\n", chain, r)
			}
			for _, r := range add {
				fmt.Fprintf(&rules, "-A %s %s\n", chain, r)
			}
			continue
		}
		fmt.Fprintf(&declare, ":%s - [0:0]\n", chain)
		for _, r := range want[chain] {
			fmt.Fprintf(&rules, "-A %s %s\n", chain, r)
		}
	}
	for _, chain := range gone(have, want) {
		if ours(chain) {
			fmt.Fprintf(&declare, ":%s - [0:0]\n", chain) // declared again, a chain is empty
			fmt.Fprintf(&remove, "-X %s\n", chain)
			continue
		}
		for _, r := range have[chain] { // a table that is wanted no more leaves no hook
			fmt.Fprintf(&rules, "-D %s %s\n", chain, r)
		}
	}
	return declare.String() + rules.String() + remove.String()
}

// changed are the chains of want that have has not, or with other rules, in order.
func changed(have, want map[string][]string) (chains []string) {
	for c, rules := range want {
		if old, there := have[c]; !there || !slices.Equal(old, rules) {
			chains = append(chains, c)
		}
	}
	slices.Sort(chains)
	return chains
}

// unordered is the part of a chain in which the order of rules means nothing, and what stands before it. Rules of a rule set each allow, and what leads to a port by its device leads to one
// port only. Rules that lead to ports by their addresses follow one that does not; where an address is several ports', and each is asked for its consent, all are in order.
func unordered(chain string, rules []string) (fixed, free []string) {
	switch {
	case strings.HasPrefix(chain, "LQe-"), strings.HasPrefix(chain, "LQi-"), strings.HasPrefix(chain, "LQN-"), strings.HasPrefix(chain, outBucket):
		return nil, rules
	case strings.HasPrefix(chain, "LQM-") && len(rules) > 0:
		for _, r := range rules[1:] {
			if !strings.HasPrefix(r, "-d ") || !strings.Contains(r, " -j LQI-") {
				return rules, nil
			}
		}
		return rules[:1], rules[1:]
	}
	return rules, nil
}

// difference is what to add to and delete from a chain as far as order means nothing in it; not ok when it is better written anew.
func difference(chain string, have, want []string) (add, del []string, ok bool) {
	fixed, have := unordered(chain, have)
	same, want := unordered(chain, want)
	if !slices.Equal(fixed, same) {
		return nil, nil, false
	}
	count := make(map[string]int, len(have))
	for _, r := range have {
		count[r]++
	}
	for _, r := range want {
		if count[r]--; count[r] < 0 {
			add = append(add, r)
		}
	}
	for _, r := range have {
		if count[r] > 0 {
			count[r]--
			del = append(del, r)
		}
	}
	// Each deletion by rule makes iptables look through the chain.
	return add, del, len(del) <= 8 && len(add) <= len(have)
}

// parse reads what iptables-save prints, and keeps our chains and our hooks.
func parse(saved string) Tables {
	t, table := Tables{}, ""
	for line := range strings.Lines(saved) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "*"):
			table = line[1:]
		case strings.HasPrefix(line, ":"):
			if chain, _, _ := strings.Cut(line[1:], " "); ours(chain) {
				t.add(table, chain)
			}
		case strings.HasPrefix(line, "-A "):
			chain, rule, _ := strings.Cut(line[3:], " ")
			if ours(chain) || hook(table, chain, rule) {
				t.add(table, chain, numbered(rule))
			}
		}
	}
	return t
}

// hook reports whether a rule in a chain that is not ours leads to one of ours.
func hook(table, chain, rule string) bool {
	for _, h := range hooks {
		if h.table == table && h.chain == chain && rule == "-j "+h.target {
			return true
		}
	}
	return false
}

// numbered turns a protocol that iptables-save named by the host's /etc/protocols back into its number.
func numbered(rule string) string {
	before, after, found := strings.Cut(rule, "-p ")
	if !found || before != "" && !strings.HasSuffix(before, " ") {
		return rule
	}
	name, rest, _ := strings.Cut(after, " ")
	for _, known := range protocolNames {
		if name == known {
			return rule
		}
	}
	n, ok := hostProtocols()[name]
	if !ok {
		return rule
	}
	return before + "-p " + n + " " + rest
}

// hostProtocols are numbers by the names that this host has for protocols.
var hostProtocols = sync.OnceValue(func() map[string]string {
	m := map[string]string{}
	b, err := os.ReadFile("/etc/protocols")
	if err != nil {
		return m // then iptables-save prints numbers
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0][0] != '#' {
			m[f[0]] = f[1]
		}
	}
	return m
})

// Families of nft, as its messages number them.
const (
	nftIPv4   = 2
	nftBridge = 7
	nftIPv6   = 10
)

// Touches reports whether a change of a table or chain could concern us: all in our own table and chains, and what disappears around our hooks.
func Touches(family byte, table, chain string, deletes bool) bool {
	switch family {
	case nftBridge:
		return table == Table
	case nftIPv4, nftIPv6:
		if !slices.Contains(tableNames, table) || chain == "set" {
			return false
		}
		return deletes && !strings.HasPrefix(chain, "LQ") || ours(chain)
	}
	return false
}
