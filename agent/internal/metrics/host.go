package metrics

import (
	"bufio"
	"os"
	"runtime"
	"strconv"
	"strings"
)

// cpuModes are the columns of /proc/stat's first line.
var cpuModes = []string{"user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"}

// userHZ is the kernel's unit of CPU time towards programs, fixed on every architecture that runs guests.
const userHZ = 100

// ReadNode reads the host's own figures. What cannot be read stays zero.
func ReadNode() NodeSample {
	n := NodeSample{CPUs: runtime.NumCPU(), CPUSeconds: map[string]float64{}}
	eachLine("/proc/stat", func(f []string) {
		switch f[0] {
		case "cpu":
			for i, mode := range cpuModes {
				if i+1 < len(f) {
					n.CPUSeconds[mode] = number(f[i+1]) / userHZ
				}
			}
		case "btime":
			n.BootTime = number(f[1])
		}
	})
	eachLine("/proc/meminfo", func(f []string) {
		switch f[0] {
		case "MemTotal:":
			n.MemoryBytes = number(f[1]) * 1024
		case "MemAvailable:":
			n.MemoryAvailable = number(f[1]) * 1024
		}
	})
	eachLine("/proc/loadavg", func(f []string) { n.Load1 = number(f[0]) })
	return n
}

func eachLine(path string, line func([]string)) {
	f, err := os.Open(path)
	if err != nil {
		return
	}
	defer f.Close() //nolint:errcheck // only read
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if fields := strings.Fields(sc.Text()); len(fields) > 1 {
			line(fields)
		}
	}
}

func number(s string) float64 {
	v, _ := strconv.ParseFloat(s, 64)
	return v
}
