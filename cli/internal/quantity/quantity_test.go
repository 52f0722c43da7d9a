package quantity

import (
	"strings"
	"testing"
)

func TestParseBytes(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		in   string
		want int64
		err  string
	}{
		{in: "256M", want: 256 << 20},
		{in: "256m", want: 256 << 20},
		{in: "256Mi", want: 256 << 20},
		{in: "256MiB", want: 256 << 20},
		{in: "10G", want: 10 << 30},
		{in: "1.5G", want: 3 << 29},
		{in: "2T", want: 2 << 40},
		{in: " 4 K ", want: 4096},
		{in: "268435456", want: 256 << 20},
		{in: "0", want: 0},
		{in: "4096B", want: 4096},
		{in: "", err: "empty amount"},
		{in: "512", err: "give a unit, for example 512M"},
		{in: "256MB", err: "write M for a power of 1024"},
		{in: "256X", err: `unknown unit "X"`},
		{in: "G", err: "is not an amount"},
		{in: "-1G", err: "negative"},
		{in: "1.0001K", err: "whole number of bytes"},
		{in: "9000P", err: "too large"},
		{in: "1e3M", err: "unknown unit"},
		{in: "1..5G", err: "is not an amount"},
	} {
		got, err := ParseBytes(tc.in)
		switch {
		case tc.err == "" && (err != nil || got != tc.want):
			t.Errorf("%q: %d, %v; want %d", tc.in, got, err, tc.want)
		case tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)):
			t.Errorf("%q: %d, %v; want error with %q", tc.in, got, err, tc.err)
		}
	}
	if got, err := ParseExact("512"); err != nil || got != 512 {
		t.Errorf("exact 512: %d, %v", got, err)
	}
}

func TestFormatBytes(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{0: "0B", 1023: "1023B", 1024: "1K", 256 << 20: "256M", 3 << 29: "1.5G", 10 << 30: "10G", 1 << 40: "1T"} {
		if got := FormatBytes(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}
