"""What people see: text in the terminal, an HTML page with plots, and pictures.

In: results, plans and page_content's plain records. Out: rich tables, one self-contained HTML page, PNG files. A newcomer may
change how things look here (terminal, templates/, plots); what is shown is decided by the room that calls.
"""
