package quantity

import (
	"strings"
	"testing"
)

func TestParseRate(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		in, text string
		want     int64
		err      string
	}{
		{in: "100M", want: 1e8, text: "100Mbit/s"},
		{in: "1.5G", want: 15e8, text: "1.5Gbit/s"},
		{in: "64kbit", want: 64e3, text: "64kbit/s"},
		{in: "10Mbit/s", want: 1e7, text: "10Mbit/s"},
		{in: "1gbps", want: 1e9, text: "1Gbit/s"},
		{in: "1500", want: 1500, text: "1.5kbit/s"},
		{in: "none", want: 0, text: "0bit/s"},
		{in: "0", want: 0, text: "0bit/s"},
		{in: "100", err: "give a unit, for example 100M"},
		{in: "100MB", err: `unknown unit "MB"`},
		{in: "100Mi", err: `unknown unit "Mi"`},
		{in: "-1M", err: "is no rate"},
		{in: "", err: "is no rate"},
		{in: "fast", err: "is no rate"},
		{in: "0.0005k", err: "whole number"},
		{in: "99999999999T", err: "too large"},
	} {
		got, err := ParseRate(tc.in)
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%q: %d, %v; want %q", tc.in, got, err, tc.err)
			}
			continue
		}
		if err != nil || got != tc.want || FormatRate(got) != tc.text {
			t.Errorf("%q: %d (%s), %v; want %d (%s)", tc.in, got, FormatRate(got), err, tc.want, tc.text)
		}
	}
}
