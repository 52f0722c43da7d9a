package lvm

import (
	"fmt"
	"strconv"
	"strings"
)

// Tags are facts written on a logical volume, one LVM tag each: "lq.NAME=VALUE". Other tags are other people's.
type Tags map[string]string

const tagPrefix = "lq."

// plain are the bytes of a value that stand for themselves. LVM allows some more in a tag, the slash and '&' among them; '&' begins an escape here.
const plain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-/:"

// Tag is a fact as LVM's --addtag and --deltag take it.
func Tag(name, value string) string {
	var b strings.Builder
	b.WriteString(tagPrefix + name + "=")
	for i := range len(value) {
		if strings.IndexByte(plain, value[i]) >= 0 {
			b.WriteByte(value[i])
		} else {
			fmt.Fprintf(&b, "&%02X", value[i])
		}
	}
	return b.String()
}

// ReadTags reads the facts among a volume's tags.
func ReadTags(tags []string) Tags {
	out := Tags{}
	for _, t := range tags {
		name, value, ok := strings.Cut(strings.TrimPrefix(t, tagPrefix), "=")
		if !ok || !strings.HasPrefix(t, tagPrefix) {
			continue
		}
		if v, ok := unescape(value); ok {
			out[name] = v
		}
	}
	return out
}

func unescape(s string) (string, bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '&' {
			b.WriteByte(s[i])
			continue
		}
		if i+3 > len(s) {
			return "", false
		}
		n, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
		if err != nil {
			return "", false
		}
		b.WriteByte(byte(n))
		i += 2
	}
	return b.String(), true
}

// Number reads a fact that is a number; 0 if it is none.
func (t Tags) Number(name string) int64 {
	n, _ := strconv.ParseInt(t[name], 10, 64)
	return n
}
