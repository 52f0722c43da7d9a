package domain

import (
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

const (
	// DefaultProject owns what names no project.
	DefaultProject = "default"

	maxNameLength      = 63
	maxLabels          = 64
	maxAnnotationBytes = 64 << 10
	maxRequestID       = 64

	nameRule     = "must be 1-63 characters of a-z, 0-9 and '-', start with a letter and not end in '-'"
	labelKeyRule = "must be 1-63 letters, digits, '-', '_' or '.', beginning and ending with a letter or digit; a DNS prefix and '/' may precede it"
	labelValRule = "must be at most 63 letters, digits, '-', '_' or '.', beginning and ending with a letter or digit"
)

// ValidName reports whether s may name an object.
func ValidName(s string) bool {
	if len(s) == 0 || len(s) > maxNameLength || s[0] < 'a' || s[0] > 'z' || s[len(s)-1] == '-' {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// Project is the project that a request means.
func Project(s string) string {
	if s == "" {
		return DefaultProject
	}
	return s
}

// CheckName notes a name that may not be.
func CheckName(v *Violations, field, name string) {
	switch {
	case name == "":
		v.Add(field, "is required")
	case !ValidName(name) || IsID(name):
		v.Add(field, nameRule)
	}
}

// CheckMeta notes what is wrong in the part of meta that clients write.
func CheckMeta(v *Violations, field string, m *metav1.ObjectMeta, withProject bool) {
	CheckName(v, field+".name", m.GetName())
	if withProject && !ValidName(m.GetProjectId()) {
		v.Add(field+".project_id", nameRule)
	}
	CheckLabels(v, field+".labels", m.GetLabels())
	CheckAnnotations(v, field+".annotations", m.GetAnnotations())
}

// CheckLabels notes labels that may not be.
func CheckLabels(v *Violations, field string, labels map[string]string) {
	if len(labels) > maxLabels {
		v.Add(field, "holds %d labels, at most %d are allowed", len(labels), maxLabels)
	}
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		at := field + "[" + quoteKey(k) + "]"
		if !ValidLabelKey(k) {
			v.Add(at, "key "+labelKeyRule)
		}
		if !ValidLabelValue(labels[k]) {
			v.Add(at, "value "+labelValRule)
		}
	}
}

// CheckAnnotations notes annotations that are too large or not text.
func CheckAnnotations(v *Violations, field string, notes map[string]string) {
	total := 0
	for k, val := range notes {
		total += len(k) + len(val)
		if k == "" {
			v.Add(field, "holds an empty key")
		}
	}
	if total > maxAnnotationBytes {
		v.Add(field, "take %d bytes, at most %d are allowed", total, maxAnnotationBytes)
	}
}

// CheckRequestID notes a request id that may not be.
func CheckRequestID(v *Violations, id string) {
	if len(id) > maxRequestID || !printable(id) {
		v.Add("request_id", "must be at most %d printable characters", maxRequestID)
	}
}

// ValidLabelKey reports whether k may be the key of a label or taint.
func ValidLabelKey(k string) bool {
	if prefix, rest, ok := strings.Cut(k, "/"); ok {
		if len(prefix) > 253 || !validDNS(prefix) {
			return false
		}
		k = rest
	}
	return k != "" && ValidLabelValue(k)
}

// ValidLabelValue reports whether s may be the value of a label or taint.
func ValidLabelValue(s string) bool {
	if len(s) > 63 {
		return false
	}
	for i, c := range []byte(s) {
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || i == len(s)-1 || c != '-' && c != '_' && c != '.') {
			return false
		}
	}
	return true
}

// validDNS reports whether s is a DNS name of lower-case labels.
func validDNS(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for part := range strings.SplitSeq(s, ".") {
		if part == "" || len(part) > 63 || part[0] == '-' || part[len(part)-1] == '-' {
			return false
		}
		for _, c := range []byte(part) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
				return false
			}
		}
	}
	return true
}

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// quoteKey shortens a key for a field path.
func quoteKey(k string) string {
	if len(k) > 80 {
		k = k[:80] + "..."
	}
	return `"` + strings.ToValidUTF8(k, "?") + `"`
}
