package nearest

import "testing"

func TestWord(t *testing.T) {
	t.Parallel()
	verbs := []string{"create", "list", "show", "start", "stop", "delete"}
	for word, want := range map[string]string{
		"lst": "list", "lsit": "list", "shwo": "show", "strat": "start", "del": "delete", "STOP": "stop", "crate": "create", "migrate": "", "": "", "zz": "",
	} {
		if got := Word(word, verbs); got != want {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
}
