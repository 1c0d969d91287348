#!/bin/sh
# Print the first argument that is a Python from 3.10 to 3.14; with none, say so in a sentence and fail.
seen=''
for python in "$@"; do
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || version='missing'
    case "$version" in
        3.1[0-4]) echo "$python"; exit 0 ;;
    esac
    seen="$seen${seen:+, }$python is $version"
done
echo "mmssmprune needs Python 3.10 to 3.14 ($seen): install one, or name it with PYTHON=/path/to/python3.11." >&2
exit 1
