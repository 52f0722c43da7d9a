package command

import (
	"fmt"
	"strings"

	"github.com/limiquantix/limiquantix/cli/internal/failure"
	"github.com/limiquantix/limiquantix/cli/internal/render"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

// fields splits "a:[b:c]:d" at colons outside brackets, and takes the brackets away.
func fields(text string) ([]string, error) {
	var out []string
	for rest := text; ; {
		if inside, ok := strings.CutPrefix(rest, "["); ok {
			word, after, closed := strings.Cut(inside, "]")
			if !closed || after != "" && after[0] != ':' {
				return nil, fmt.Errorf("a bracket of %q is not closed before a colon", text)
			}
			out = append(out, word)
			if after == "" {
				return out, nil
			}
			rest = after[1:]
			continue
		}
		word, after, more := strings.Cut(rest, ":")
		out = append(out, word)
		if !more {
			return out, nil
		}
		rest = after
	}
}

// listen reads [tcp:|udp:][ADDRESS:]NODEPORT from the front of words, and returns what is left.
func listen(f *networkv1.NetworkForward, words []string) ([]string, error) {
	f.Protocol = "tcp"
	if w := strings.ToLower(words[0]); w == "tcp" || w == "udp" {
		f.Protocol, words = w, words[1:]
	}
	if len(words) > 1 && !isNumber(words[0]) {
		addr, err := parseAddr(words[0])
		if err != nil {
			return nil, fmt.Errorf("%q is neither tcp, udp, a port of the node nor an address of it", words[0])
		}
		f.ListenAddress, words = addr.String(), words[1:]
	}
	if len(words) == 0 {
		return nil, fmt.Errorf("the port of the node is missing")
	}
	var err error
	f.ListenPort, err = port(words[0])
	return words[1:], err
}

func isNumber(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// parseNetworkForward reads [tcp:|udp:][ADDRESS:]NODEPORT:TARGET[:GUESTPORT].
func parseNetworkForward(text string) (*networkv1.NetworkForward, error) {
	words, err := fields(text)
	if err != nil {
		return nil, err
	}
	f := &networkv1.NetworkForward{}
	if words, err = listen(f, words); err != nil {
		return nil, err
	}
	if len(words) == 0 || words[0] == "" {
		return nil, fmt.Errorf("it does not say where it leads to")
	}
	if len(words) > 2 {
		return nil, fmt.Errorf("%q is too much", strings.Join(words[2:], ":"))
	}
	if addr, err := parseAddr(words[0]); err == nil {
		f.Target = &networkv1.NetworkForward_IpAddress{IpAddress: addr.String()}
	} else if isNumber(words[0]) {
		return nil, fmt.Errorf("%q is neither a port's name nor an address", words[0])
	} else {
		f.Target = &networkv1.NetworkForward_PortId{PortId: words[0]}
	}
	if len(words) == 2 {
		if f.TargetPort, err = port(words[1]); err != nil {
			return nil, err
		}
	}
	return f, nil
}

func parseForwards(items []string) ([]*networkv1.NetworkForward, error) {
	var out []*networkv1.NetworkForward
	for _, text := range items {
		f, err := parseNetworkForward(text)
		if err != nil {
			return nil, failure.Usage("--forward %q: %w", text, err).WithFix("write for example --forward tcp:8080:web/nic0:80, or --forward udp:53:10.4.0.10")
		}
		for _, other := range out {
			if render.Listen(other) == render.Listen(f) {
				return nil, failure.Usage("--forward gives %s twice", render.Listen(f)).WithFix("let each port of the node lead to one place")
			}
		}
		out = append(out, f)
	}
	return out, nil
}

// changeForwards adds forwards, each in place of one that listens where it does, and removes others.
func changeForwards(have, add []*networkv1.NetworkForward, remove []string) ([]*networkv1.NetworkForward, error) {
	var out []*networkv1.NetworkForward
	gone := map[string]bool{}
	for _, f := range add {
		gone[render.Listen(f)] = true
	}
	for _, text := range remove {
		f, err := parseListen(text)
		if err != nil {
			return nil, err
		}
		found := false
		var known []string
		for _, h := range have {
			found = found || render.Listen(h) == render.Listen(f)
			known = append(known, render.Listen(h))
		}
		if !found {
			return nil, failure.New(failure.ExitNotFound, "NOT_FOUND", "--remove-forward %s: there is no such forward", render.Listen(f)).WithFix("there are: %s", listOr(known, "none"))
		}
		gone[render.Listen(f)] = true
	}
	for _, h := range have {
		if !gone[render.Listen(h)] {
			out = append(out, h)
		}
	}
	return append(out, add...), nil
}

func parseListen(text string) (*networkv1.NetworkForward, error) {
	f := &networkv1.NetworkForward{}
	words, err := fields(text)
	if err == nil {
		words, err = listen(f, words)
	}
	if err == nil && len(words) > 0 {
		err = fmt.Errorf("it takes where it listens alone")
	}
	if err != nil {
		return nil, failure.Usage("--remove-forward %q: %w", text, err).WithFix("write for example --remove-forward tcp:8080")
	}
	return f, nil
}
