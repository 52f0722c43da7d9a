// Package nearest finds what a mistyped word was probably meant to be.
package nearest

import "strings"

// Word returns the candidate that is closest to word, or "" when none is close enough to be worth suggesting. Case does not count. A candidate that
// word begins is close whatever its length.
func Word(word string, candidates []string) string {
	word = strings.ToLower(word)
	if word == "" {
		return ""
	}
	best, least := "", len(word)/3+2
	for _, c := range candidates {
		lower := strings.ToLower(c)
		d := edits(word, lower)
		if len(word) >= 2 && strings.HasPrefix(lower, word) {
			d = min(d, 1)
		}
		if d < least {
			best, least = c, d
		}
	}
	return best
}

// edits counts the insertions, deletions, replacements and swaps of neighbours between a and b.
func edits(a, b string) int {
	older, old, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range old {
		old[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			change := old[j-1]
			if a[i-1] != b[j-1] {
				change++
			}
			cur[j] = min(change, old[j]+1, cur[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], older[j-2]+1)
			}
		}
		older, old, cur = old, cur, older
	}
	return old[len(b)]
}
