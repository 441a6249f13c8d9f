module ccmproxy.invalid/bench/goproxy

go 1.21
