package lab

import (
	"errors"
	"testing"
)

func TestGuestOf(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args []string
		want GuestProcess
		ok   bool
	}{
		"guest": {
			[]string{"/usr/bin/qemu-system-x86_64", "-name", "guest=web,debug-threads=on", "-uuid", "u1", "-m", "96"},
			GuestProcess{UUID: "u1", Name: "web", PID: 7, StartTime: 9},
			true,
		},
		"probe without uuid": {[]string{"/usr/bin/qemu-system-x86_64", "-machine", "none"}, GuestProcess{}, false},
		"other program":      {[]string{"/bin/grep", "-uuid", "u1"}, GuestProcess{}, false},
		"kernel thread":      {nil, GuestProcess{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := guestOf(process{pid: 7, start: 9, args: c.args})
			if ok != c.ok || ok && got != c.want {
				t.Errorf("got %+v, %v; want %+v, %v", got, ok, c.want, c.ok)
			}
		})
	}
}

func TestParseStat(t *testing.T) {
	t.Parallel()
	const tail = " 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21\n"
	if got, err := parseStat("12 (qemu) x) y) S" + tail); err != nil || got != 4711 {
		t.Errorf("got %d, %v", got, err)
	}
	if _, err := parseStat("12 (qemu) Z" + tail); !errors.Is(err, errGone) {
		t.Errorf("zombie: got %v, want errGone", err)
	}
}
